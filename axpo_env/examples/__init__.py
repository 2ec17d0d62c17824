"""Short programs to read and to copy from; nothing else imports them."""
