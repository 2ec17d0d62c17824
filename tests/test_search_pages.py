"""Offline search: pages read from files, found by words, cut to passages, the same in every process."""

import copy
import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from axpo_env.tools.page_index import PageIndex, is_excluded, passage, query_terms
from axpo_env.tools.pages import Page, load_image, read_folder

PAGES = [
    Page(url="https://a.org/lighthouses", title="Lighthouses", content="Towers with a lamp. Ships see them."),
    Page(url="https://b.org/ships", title="Ships", content="A ship sails. Captains steer ships at sea."),
    Page(url="https://huggingface.co/x", title="Ship answers", content="ship ship ship ship lamp"),
    Page(url="https://c.org/naive", title="Naïve art", content="Painters without schooling."),
]


def search(query, pages=PAGES, **options):
    return PageIndex(pages).search(query, **{"max_results": 5, "max_chars": 500, **options})


def test_best_first_and_words_match_in_other_forms():
    found = search("ships")
    assert [result.url for result in found] == [
        "https://huggingface.co/x",
        "https://b.org/ships",
        "https://a.org/lighthouses",
    ]
    assert [result.score for result in found] == sorted((r.score for r in found), reverse=True)
    assert all(0 < result.score < 1 for result in found)
    assert [result.title for result in search("NAIVE painter")] == ["Naïve art"]


def test_numbers_of_results_and_every_page_at_hand_may_be_found():
    found = search("ship lamp", max_results=1)
    assert [result.url for result in found] == ["https://huggingface.co/x"]  # the user's own page
    assert len(search("ship lamp")) == 3


def test_what_is_excluded_from_the_web():
    assert is_excluded("https://datasets.huggingface.co/a", ("huggingface.co",))
    assert not is_excluded("https://nothuggingface.co/huggingface.co", ("huggingface.co",))
    assert not is_excluded("notes/page.md", ("huggingface.co",))
    assert not is_excluded("http://[broken", ("huggingface.co",))


CJK_PAGES = [
    Page(url="ja", title="辞書", content="これは日本語の辞書です。東京で作られた。"),
    Page(url="zh", title="北京", content="北京是中国的首都。"),
    Page(url="ko", title="서울", content="서울은 한국의 수도이다."),
    Page(url="en", title="Japan", content="The Japanese word is 日本, said in 2024年."),
]


@pytest.mark.parametrize(
    ("query", "urls"),
    [
        ("日本語", ["ja", "en"]),
        ("日本", ["ja", "en"]),
        ("語", ["ja"]),
        ("首都", ["zh"]),
        ("서울", ["ko"]),
        ("日語", []),
        ("2024", ["en"]),
    ],
)
def test_words_without_spaces_between_them_are_found(query, urls):
    assert {result.url for result in search(query, CJK_PAGES)} == set(urls)
    assert next(result.url for result in search("日本語", CJK_PAGES)) == "ja"


def test_passages_without_spaces():
    text = "何もない。" * 40 + "東京は首都です。" + "まだある。" * 40
    assert passage(text, query_terms("首都"), 20) == "... 東京は首都です。 まだある。 まだある。 ..."
    assert query_terms("日本語 2024年") == ("日本", "本語", "2024", "年")


def test_a_word_on_every_page_still_has_a_score_and_an_order():
    pages = [
        Page(url=str(count), title="", content="common " * count + "other " * (9 - count))
        for count in range(1, 9)
    ]
    found = search("common", pages, max_results=8)
    assert [result.url for result in found] == ["8", "7", "6", "5", "4", "3", "2", "1"]
    scores = [result.score for result in found]
    assert scores == sorted(set(scores), reverse=True) and min(scores) >= 0.01
    assert search("common", pages[:1])[0].score >= 0.01


@pytest.mark.parametrize(
    "query", ["", "?!", '"', "a AND NOT (b", "title:ships*", "NEAR(ships, 3)", "x" * 9999]
)
def test_no_query_is_a_syntax_error(query):
    assert len(search(query)) <= 5


def test_a_query_operator_is_a_word():
    assert [result.title for result in search("title:naive")] == ["Naïve art"]
    assert query_terms("Ships, ships and SHIPS") == ("ships", "and")


def test_a_passage_is_where_the_words_stand():
    text = "Nothing here. " * 40 + "The mayor is Ann Bell. She lives by the river. " + "More of it. " * 40
    found = passage(text, query_terms("mayor river"), 60)
    assert found == "... The mayor is Ann Bell. She lives by the river. More of it. ..."
    assert passage("short", ("x",), 60) == "short"
    assert passage("y" * 100, ("x",), 60) == "y" * 60 + " ..."
    assert passage("One. Two. Three.", (), 9) == "One. Two. ..."


def write_pages(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "a.md").write_text("intro\n# The Title #\n![lamp](sub/lamp.png) Some *text*.")
    (folder / "b.txt").write_text("Plain words.")
    (folder / "c.html").write_text(
        "<head><title>A\n page</title><script>var hidden;</script></head><body><p>Tea &amp; <b>cake</b></p>"
        "<table><tr><td>1</td><td>2</td></tr></table><img src='https://x.org/far.png'><img src=sub/lamp.png></body>"
    )
    items = [{"title": "One", "url": "https://x.org/1", "content": "first", "image": "sub/lamp.png"}]
    (folder / "d.json").write_text(json.dumps([*items, {"content": "second"}]))
    (folder / "sub" / "lamp.md").write_text("No heading. ![out](../../secret.png)")
    (folder / "ignored.csv").write_text("1,2")
    Image.new("RGB", (8, 6), "red").save(folder / "sub" / "lamp.png")
    Image.new("RGB", (8, 6), "red").save(folder.parent / "secret.png")


def test_a_folder_of_files_is_read_into_pages(tmp_path):
    folder = tmp_path / "pages"
    folder.mkdir()
    write_pages(folder)
    pages = read_folder(folder)
    lamp = folder / "sub" / "lamp.png"
    assert [(page.url, page.title, page.content, page.image) for page in pages] == [
        ("a.md", "The Title", "intro\n# The Title #\n Some *text*.", lamp),
        ("b.txt", "b", "Plain words.", None),
        ("c.html", "A page", "Tea & cake\n1 2", lamp),
        ("https://x.org/1", "One", "first", lamp),
        ("d.json#1", "d", "second", None),
        ("sub/lamp.md", "lamp", "No heading.", lamp),
    ]
    image = load_image(pages[0])
    assert image is not None and image.shape == (6, 8, 3) and not image.flags.writeable


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "a.json: Expecting"),
        ("a.json", "[3]", r"page\[0\] must be an object, not int"),
        ("a.json", '{"titel": "x", "content": ""}', "unknown key of a page 'titel'.*nearest: title"),
        ("a.json", '{"title": "x"}', "page lacks 'content'"),
        ("a.json", '{"content": 3}', "content must be a string, not int"),
        ("a.json", '{"content": "", "image": "/etc/passwd"}', "no image /etc/passwd in the folder"),
        ("a.json", "[]", "no page in the files of"),
        ("a.csv", "", r"no .md, .txt, .html, .htm, .json in"),
    ],
)
def test_bad_folders_are_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_folder(tmp_path)
    with pytest.raises(NotADirectoryError, match="no folder of pages"):
        read_folder(tmp_path / "missing")


def test_a_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / "x.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"x\.png: not a readable image"):
        load_image(Page(url="", title="", content="", image=tmp_path / "x.png"))


def test_copies_share_pickles_rebuild_and_threads_agree():
    index = PageIndex(PAGES)
    assert copy.deepcopy({"index": index})["index"] is index
    options = {"max_results": 5, "max_chars": 500}
    expected = index.search("ship lamp", **options)
    assert pickle.loads(pickle.dumps(index)).search("ship lamp", **options) == expected
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: index.search("ship lamp", **options), range(64)))
    assert results == [expected] * 64


CHILD = """
import sys
sys.path.insert(0, 'tests')
from test_search_pages import search
print([(result.url, result.score, result.content) for result in search("captain of ships with a lamp")])
"""


def test_another_process_finds_the_same(repository):
    done = subprocess.run(
        [sys.executable, "-c", CHILD], cwd=repository, capture_output=True, text=True, check=True
    )
    here = [(result.url, result.score, result.content) for result in search("captain of ships with a lamp")]
    assert done.stdout.strip() == str(here)


def test_a_fork_builds_its_own():
    index = PageIndex([*PAGES, Page(url="i", title="i", content="i", image=np.zeros((4, 4, 3), np.uint8))])
    options = {"max_results": 5, "max_chars": 500}
    expected = index.search("ships", **options)
    index._owner = -1  # as if the process had been forked
    before = index._words
    assert index.search("ships", **options) == expected and index._words is not before
