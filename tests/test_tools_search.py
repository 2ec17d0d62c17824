"""`tavily-search` in an episode: offline pages, the web (a server on loopback), its outages and its cache."""

import json
import pickle
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence

import axpo_env  # noqa: F401 - registers the ids
from axpo_env.messages import format_action, format_call
from axpo_env.snapshots import digest
from axpo_env.tools.base import ToolUnavailable
from axpo_env.tools.image_search import ImageSearch
from axpo_env.tools.pages import Page
from axpo_env.tools.search import Search
from axpo_env.tools.search_cache import ResponseCache, default_folder
from axpo_env.tools.tavily import TavilyEngine

PAGES = [
    Page(url="https://a.org/tern", title="Tern Ltd", content="Tern was founded by the chemist Ada Moor."),
    Page(url="https://a.org/moor", title="Ada Moor", content="Ada Moor was born in 1912."),
]
RESULT = {"title": "T", "url": "https://x.org", "content": "c" * 3000, "score": 0.912, "raw_content": None}


def find(query, **arguments):
    return format_action("", format_call("tavily-search", {"query": query, **arguments}))


def make(search, **keywords):
    env = gym.make("AXPO/ChartQA-Tools-v0", difficulty="nano", tools=(search,), max_turns=9, **keywords)
    env.reset(options={"index": 0})
    return env


def ask(env, query, **arguments):
    return env.step(find(query, **arguments))[0]["text"]


def test_pages_are_found_and_told():
    env = make(Search(pages=PAGES))
    text = ask(env, "who founded Tern?", max_results=1)
    score = text.split("Score: ")[1][:4]
    assert text == (
        f"1. Tern Ltd\nURL: https://a.org/tern\nScore: {score}\nTern was founded by the chemist Ada Moor."
    )
    both = ask(env, "Ada Moor")
    assert both.startswith("1. Ada Moor\n") and "\n\n2. Tern Ltd\n" in both
    assert ask(env, "zebra") == "No results for 'zebra'."


def test_a_folder_is_searched(tmp_path):
    (tmp_path / "moor.md").write_text("# Ada Moor\nBorn in 1912.")
    assert ask(make(Search(folder=tmp_path)), "Moor born").startswith("1. Ada Moor\nURL: moor.md\n")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"query": " \n"}, "Error: query is empty"),
        ({"query": "x" * 401}, "Error: query has 401 characters, at most 400 are allowed"),
        ({"query": "a\ud800"}, "Error: query is not valid Unicode"),
        ({"query": "a", "max_results": 11}, "Error: max_results is 11, must lie in 1 to 10"),
        ({"q": "a"}, "Error: unknown argument 'q'; known: max_results, query"),
    ],
)
def test_bad_queries_are_told(arguments, error):
    action = format_action("", format_call("tavily-search", arguments))
    assert make(Search(pages=PAGES)).step(action)[0]["text"] == error


def test_snapshots_hold_and_settings_travel():
    env = make(Search(pages=PAGES)).unwrapped
    ask(env, "Tern")
    snapshot = env.snapshot()
    expected = env.step(find("Moor"))
    assert digest(env.snapshot_from_bytes(snapshot.to_bytes()).state) == digest(snapshot.state)
    env.restore(snapshot)
    assert data_equivalence(env.step(find("Moor")), expected, exact=True)
    copied = pickle.loads(pickle.dumps(Search(pages=PAGES)))
    assert ask(make(copied), "Tern") == ask(make(Search(pages=PAGES)), "Tern")


def test_where_to_look_is_said_once():
    with pytest.raises(ValueError, match="one of folder, pages and online=True"):
        Search(pages=PAGES, online=True)
    with pytest.raises(NotADirectoryError, match="no folder of pages"):
        Search(folder="/no/such/folder")
    with pytest.raises(TypeError, match=r"not 'x\.org'"):
        Search(exclude_domains="x.org")
    with pytest.raises(ValueError, match="max_content_chars must be at least 1"):
        Search(max_content_chars=0)


class Painted:
    """A page of another class, whose image is painted when it is asked for."""

    url, title, content = "u", "Painted", "A painted page."

    @property
    def image(self):
        return np.zeros((4, 4, 3), np.uint8)


PAGE = {"url": "u", "title": "t", "content": "c"}


@pytest.mark.parametrize("kind", [Search, ImageSearch])
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"pages": "x"}, TypeError, "pages is a sequence of pages, not 'x'"),
        ({"pages": 3}, TypeError, "pages is a sequence of pages, not 3"),
        ({"pages": PAGE}, TypeError, "pages is a sequence of pages, not {'url'"),
        ({"pages": PAGES[0]}, TypeError, "pages is a sequence of pages, not Page"),
        ({"pages": []}, ValueError, "pages is empty"),
        (
            {"pages": [PAGES[0], {"foo": 1}]},
            TypeError,
            r"pages\[1\] must have url, title, content, image, as a Page does; dict has no url, title, content, image",
        ),
        ({"pages": [Page(**{**PAGE, "title": 3})]}, TypeError, r"pages\[0\]: title must be a text, not 3"),
        (
            {"pages": [Page(**PAGE, image=3)]},
            TypeError,
            r"pages\[0\]: image must be .* uint8 \[H, W, 3\], .*not 3",
        ),
        (
            {"pages": [Page(**PAGE, image=np.zeros((4, 4)))]},
            TypeError,
            r"pages\[0\]: image must be an array uint8 \[H, W, 3\], .*not float64 \[4, 4\]",
        ),
        ({"folder": 3}, TypeError, "folder must be a path, not 3"),
        ({"online": "yes"}, TypeError, "online must be True, False or None, not 'yes'"),
        ({"exclude_domains": 3}, TypeError, "exclude_domains is a sequence of domains, not 3"),
        ({"exclude_domains": [3]}, TypeError, "exclude_domains: a domain must be a text, not 3"),
        ({"max_content_chars": "x"}, TypeError, "max_content_chars must be a whole number, not 'x'"),
        ({"engine": "tavily"}, TypeError, "engine must be a TavilyEngine, not 'tavily'"),
    ],
)
def test_options_that_will_not_do_are_refused_when_the_tool_is_made(kind, options, error, message):
    with pytest.raises(error, match=message):
        kind(**options)


def test_pages_may_be_of_any_class_and_any_iterable():
    assert ask(make(Search(pages=(page for page in [Painted()]))), "painted").startswith("1. Painted\n")


def test_a_folder_without_pages_is_refused_when_the_tool_is_made(tmp_path):
    (tmp_path / "notes.csv").write_text("1,2")
    with pytest.raises(ValueError, match=rf"no \.md, \.txt, \.html, \.htm, \.json in {tmp_path}"):
        Search(folder=tmp_path)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.TXT").write_text("words")
    assert ask(make(Search(folder=tmp_path)), "words").startswith("1. a\n")


def test_a_spoilt_folder_is_an_outage(tmp_path):
    (tmp_path / "a.json").write_text("{")
    *_, truncated, info = make(Search(folder=tmp_path)).step(find("x"))
    assert (truncated, info["stop_reason"], info["grade"]) == (True, "infrastructure", None)
    assert "a.json" in info["outage"]


class Service:
    """Stands for the web search: answers with what the script says, notes what it was asked."""

    def __init__(self) -> None:
        self.script: list[tuple[int, object]] = []
        self.requests: list[dict] = []
        self.keys: list[str | None] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                service.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                service.keys.append(self.headers["Authorization"])
                status, body = service.script.pop(0) if service.script else (500, {})
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=10)


@pytest.fixture
def service(monkeypatch) -> Iterator[Service]:
    pytest.importorskip("tavily")
    monkeypatch.setenv("TAVILY_API_KEY", "tvly-secret")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    service = Service()
    yield service
    service.close()


def web(service, cache, pauses=None, **keywords):
    sleep = (lambda seconds: None) if pauses is None else pauses.append
    engine = TavilyEngine(cache=cache, api_base_url=service.url, sleep=sleep)
    return Search(online=True, engine=engine, **keywords)


def test_the_web_is_asked_once_and_then_replayed(service, tmp_path, monkeypatch):
    leak = {**RESULT, "url": "https://huggingface.co/datasets/answers"}
    service.script = [(200, {"results": [leak, RESULT]})]
    text = ask(make(web(service, tmp_path)), "  who   founded Tern?", max_results=3)
    assert text == "1. T\nURL: https://x.org\nScore: 0.91\n" + "c" * 1000
    assert service.requests == [
        {"query": "who founded Tern?", "max_results": 3, "exclude_domains": ["huggingface.co"]}
    ]
    assert service.keys == ["Bearer tvly-secret"]
    monkeypatch.delenv("TAVILY_API_KEY")
    assert ask(make(web(service, tmp_path)), "who founded Tern?", max_results=3) == text
    assert len(service.requests) == 1
    stored = next(tmp_path.rglob("*.json")).read_text()
    assert "who founded Tern?" in stored and "tvly" not in stored
    *_, info = make(web(service, tmp_path)).step(find("something else"))
    assert info["outage"] == "no answer in the search cache, and TAVILY_API_KEY is not set"


def test_a_snapshot_replays_what_the_web_said_then(service, tmp_path):
    service.script = [(200, {"results": [RESULT]}), (200, {"results": []})]
    env = make(web(service, tmp_path)).unwrapped
    ask(env, "Tern")
    snapshot = env.snapshot_from_bytes(env.snapshot().to_bytes())
    assert len(service.requests) == 1 and snapshot.state.messages[-1].content[0].text.startswith("1. T\n")


@pytest.mark.parametrize(
    ("answers", "num_asked"),
    [
        ([(500, {})] * 3, 3),
        ([(429, {"detail": {"error": "slow down"}})] * 3, 3),
        ([(200, b"no json")] * 3, 3),
        ([(200, {"results": "none"})] * 3, 3),
        ([(401, {"detail": {"error": "bad key"}})], 1),
        ([(432, {"detail": {"error": "plan used up"}})], 1),
        ([(400, {"detail": {"error": "no such option"}})], 1),
        ([(404, {})], 1),
    ],
)
def test_outages_are_tried_again_within_bounds(service, tmp_path, answers, num_asked):
    pauses: list[float] = []
    service.script = [*answers]
    env = make(web(service, tmp_path, pauses))
    _, reward, terminated, truncated, info = env.step(find("Tern"))
    assert (reward, terminated, truncated, info["grade"]) == (0.0, False, True, None)
    assert info["stop_reason"] == "infrastructure" and info["outage"].startswith("Tavily: ")
    assert info["outage"].endswith(f"({num_asked} of 3 tries)") and "secret" not in info["outage"]
    assert (len(service.requests), pauses) == (num_asked, [1.0, 2.0][: num_asked - 1])
    assert list(tmp_path.rglob("*.json")) == []  # an outage is not remembered


def test_a_passing_trouble_passes(service, tmp_path):
    service.script = [(503, {}), (429, {}), (200, {"results": [RESULT]})]
    assert ask(make(web(service, tmp_path)), "Tern").startswith("1. T\n")


def test_no_server_is_an_outage(service, tmp_path):
    service.close()
    *_, info = make(web(service, tmp_path)).step(find("Tern"))
    assert info["stop_reason"] == "infrastructure" and "ConnectionError" in info["outage"]


def test_results_of_another_shape_are_an_outage(service, tmp_path):
    service.script = [(200, {"results": [{"title": "T"}]})]
    *_, info = make(web(service, tmp_path)).step(find("Tern"))
    assert info["outage"] == "a search result of another shape: KeyError('url')"


def test_synthetic_tasks_are_never_looked_up_on_the_web(tmp_path):
    offline = Search(online=False, engine=TavilyEngine(cache=tmp_path))
    state = make(Search(pages=PAGES)).unwrapped.state
    other = type("State", (), {"task": type("Task", (), {"source": "hub", "details": {}})})()
    with pytest.raises(ToolUnavailable, match="no pages to search offline"):
        offline.index_for(other)
    assert Search().index_for(other) is None
    pytest.importorskip("axpo_env.tasks.synthetic.encyclopaedia")
    index = Search().index_for(state)
    assert index is Search(online=False).index_for(state) and len(index.pages) > 100


def test_the_cache_keeps_what_came_first(tmp_path):
    cache = ResponseCache(tmp_path / "deep" / "er")
    request = {"query": "q", "max_results": 5}
    assert cache.get(request) is None
    assert cache.put(request, {"results": [1]}) == {"results": [1]}
    assert cache.put({"max_results": 5, "query": "q"}, {"results": [2]}) == {"results": [1]}
    (file,) = tmp_path.rglob("*.*")
    file.write_text("{")
    with pytest.raises(ToolUnavailable, match="cannot be read"):
        cache.get(request)
    (tmp_path / "plain").write_text("")
    with pytest.raises(ToolUnavailable, match=r"cannot be (read|written)"):
        ResponseCache(tmp_path / "plain").put(request, {})


def test_the_cache_lies_in_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "axpo_env" / "search"


def test_images_on_the_web_are_urls_for_words(service, tmp_path):
    images = [
        {"url": "https://huggingface.co/a.png", "description": "leak"},
        {"url": "https://x.org/a.png", "description": "A lamp."},
        "https://x.org/b.png",
    ]
    service.script = [(200, {"results": [], "images": images}), (200, {"results": [], "images": [3]})]
    engine = TavilyEngine(cache=tmp_path, api_base_url=service.url)
    env = make(ImageSearch(online=True, engine=engine))
    seek = format_action("", format_call("image-search", {"query": "lamp"}))
    expected = "1. https://x.org/a.png\nA lamp.\n\n2. https://x.org/b.png"
    assert [env.step(seek)[0] for _ in range(2)] == [{"text": expected, "images": ()}] * 2
    assert [request["include_images"] for request in service.requests] == [True]
    like = format_action("", format_call("image-search", {"img_idx": 0}))
    told = "Error: the web search for images takes a query only, no img_idx"
    assert env.step(like)[0]["text"] == told
    *_, info = env.step(format_action("", format_call("image-search", {"query": "other"})))
    assert info["outage"] == "an image result of another shape: 3"
