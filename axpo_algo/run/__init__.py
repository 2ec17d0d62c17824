"""What a run leaves behind: its folder, checkpoints, metrics, transcripts, curves, tables, and views of them."""
