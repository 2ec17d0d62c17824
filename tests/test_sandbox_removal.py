"""Folders that untrusted code wrote to are removed, whatever it made of them, and nothing else is."""

import os
from pathlib import Path

from axpo_sandbox.local.runfolder import remove_tree


def test_a_tree_nested_deeper_than_a_path_or_the_stack_is_removed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    fd = os.open(root, os.O_RDONLY)
    for _ in range(3000):  # 6,000 characters of path, more than the kernel takes
        os.mkdir("d", dir_fd=fd)
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    num_open = len(os.listdir("/proc/self/fd"))
    remove_tree(str(root))
    assert not root.exists()
    assert len(os.listdir("/proc/self/fd")) == num_open


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "link").symlink_to(kept)
    (root / "a" / "link").symlink_to(kept)
    (root / "a" / "loop").symlink_to(root)
    os.mkfifo(root / "a" / "pipe")
    remove_tree(str(root))
    assert (kept / "file").read_text() == "x"
    assert not root.exists()
    link = tmp_path / "link"
    link.symlink_to(kept)
    remove_tree(str(link))
    assert (kept / "file").exists()


def test_folders_without_permissions_are_removed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "a" / "b" / "c").mkdir(parents=True)
    (root / "a" / "b" / "f").write_text("x")
    for path in (root / "a" / "b" / "c", root / "a" / "b", root / "a"):
        path.chmod(0)
    remove_tree(str(root))  # root may do it all anyway; others need the way the mode is changed
    assert not root.exists()


def test_what_is_not_there_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "beside").write_text("x")
    remove_tree(str(tmp_path / "none"))
    assert [path.name for path in tmp_path.iterdir()] == ["beside"]
