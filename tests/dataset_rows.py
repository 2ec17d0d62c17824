"""Small rows in the hub's schema for each of the ten benchmarks, and the files and environments made of them."""

import base64
import io
import json

import gymnasium as gym
import pytest
from PIL import Image

import axpo_env

pyarrow = pytest.importorskip("pyarrow")
ENV_IDS = {benchmark: env_id for env_id, benchmark in axpo_env.IDS.items()}
ZOOM = ("image_zoom_in",)


def png(shade, size=(40, 30)):
    buffer = io.BytesIO()
    Image.new("RGB", size, (shade, shade, shade)).save(buffer, format="PNG")
    return buffer.getvalue()


def embedded(shade):
    return {"bytes": png(shade), "path": None}


# Per benchmark: the file, its rows in the hub's schema, and the right answers, as its default variant has them.
MATHVISION = [
    {
        "id": "1",
        "question": "How many dots?\n<image1>",
        "options": [],
        "image": "images/1.jpg",
        "answer": "12",
        "solution": None,
        "level": 1,
        "subject": "counting",
        "decoded_image": embedded(0),
    },
    {
        "id": "2",
        "question": "Which side?\n<image1>\n<image2>",
        "options": [r"$\frac{1}{2}$", "2", "red", "blue", "green"],
        "image": "images/2.jpg",
        "answer": "A",
        "solution": None,
        "level": 5,
        "subject": "logic",
        "decoded_image": embedded(1),
    },
]


def dynamath(variant):
    rows = (
        ("What is the period?", str(2.0944 + variant), "float"),
        ("Is it odd? choice:(A) yes (B) no", "AB"[variant % 2], "multiple choice"),
        ("Which month?", "Sep", "text"),
    )
    return [
        {
            "id": str(number),
            "question": question,
            "image": "x.png",
            "decoded_image": embedded(number),
            "ground_truth": truth,
            "answer_type": kind,
            "subject": "statistics",
            "knowledge_level": "high school",
        }
        for number, (question, truth, kind) in enumerate(rows)
    ]


def mathvr(question, answers, **images):
    pictures = {f"image{number}": None for number in range(1, 9)} | images
    return {
        "id": 7,
        "question": question,
        "answers": answers,
        "number_of_answers": len(answers),
        "scoring_points": "p1",
        **pictures,
    }


MATHVR = [
    mathvr(
        "See <image2> and <image1>. (1) f(x)? (2) AB?",
        ["2x+1", r"\sqrt{12}"],
        image1=embedded(1),
        image2=embedded(2),
    ),
    mathvr("Without a figure: 1 + 1?", ["2"]),
    mathvr("Area in <image1>?", ["12"], image1=embedded(3)),
]
VSTAR_TEXT = "What is the glove's material?\n(A) rubber\n(B) cotton\nAnswer with the option's letter."
VSTAR = [
    {
        "image": f"{category}/{number}.jpg",
        "text": VSTAR_TEXT,
        "category": category,
        "label": "AB"[number % 2],
        "question_id": str(number),
    }
    for number, category in enumerate(("direct_attributes", "relative_position", "direct_attributes"))
]
VISUALPROBE = [
    {
        "images": ["VisualProbe_Hard/data/0.jpg"],
        "doc_id": "0",
        "problem": "<image>\nWhich number?",
        "solution": "29",
    },
    {
        "images": ["VisualProbe_Hard/data/1.jpg"],
        "doc_id": "1",
        "problem": "<image>\nWhich shop?",
        "solution": "The Fox",
    },
]
HRBENCH = [
    {
        "index": 4 * number + cycle,
        "question": f"What colour is sign {number}?",
        "answer": "ABCD"[cycle],
        **{
            letter: colour for letter, colour in zip("ABCD", colours[-cycle:] + colours[:-cycle], strict=True)
        },
        "category": ("single", "cross")[number],
        "cycle_category": str(cycle),
        "image": base64.b64encode(png(number)).decode(),
    }
    for number, colours in enumerate((["red", "green", "blue", "grey"], ["black", "white", "pink", "brown"]))
    for cycle in range(4)
]
HRMMSEARCH = [
    {
        "sample_id": "0",
        "query": "Who founded it?",
        "query_image": embedded(9),
        "ground_truth": ["Ada Lovelace"],
        "difficulty": "hard",
        "category": "news",
    }
]
MMSEARCH = [
    {
        "sample_id": str(number),
        "query": f"When does part {number} begin?",
        "query_image": image,
        "gt_answer": "12 July 2024",
        "alternative_gt_answers": aliases,
        "timestamp": "2024-07",
        "area": "news",
        "subfield": "sports",
    }
    for number, (image, aliases) in enumerate(
        [(embedded(1), ["July 12, 2024"]), (None, []), (embedded(3), [])]
    )
]
CHARTQA = [{"image": embedded(1), "query": "How many?", "label": ["3"], "human_or_machine": 0}]
ROWS = {
    "chartqa": ("test.parquet", CHARTQA, ["3"]),
    "mathvision": ("data/testmini-00000-of-00001.parquet", MATHVISION, ["12", "A"]),
    "dynamath": ("data/sample1-00000-of-00001.parquet", dynamath(1), ["3.0944", "B", "Sep"]),
    "mathvr": ("data/test-00000-of-00001.parquet", MATHVR, [r"2x+1; \sqrt{12}", "12"]),
    "vstar": ("test_questions.jsonl", VSTAR, ["A", "B", "A"]),
    "visualprobe": ("val.json", VISUALPROBE, ["29", "The Fox"]),
    "hrbench4k": ("hr_bench_4k.parquet", HRBENCH, ["A", "B"]),
    "hrbench8k": ("hr_bench_8k.parquet", HRBENCH, ["A", "B"]),
    "hrmmsearch": ("train.parquet", HRMMSEARCH, ["Ada Lovelace"]),
    "mmsearch": ("end2end.parquet", MMSEARCH, ["12 July 2024"] * 3),
}
NINE = [benchmark for benchmark in ROWS if benchmark != "chartqa"]


def write(path, rows):
    """Rows as the hub has them: parquet with images in it, or JSON with pictures beside it."""
    write_table(path, rows)
    for number, row in enumerate(rows if path.suffix != ".parquet" else []):
        for name in row.get("images", [row.get("image")]):
            picture = path.parent / str(name).removeprefix("VisualProbe_Hard/")
            picture.parent.mkdir(parents=True, exist_ok=True)
            picture.write_bytes(png(number))


def write_table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=2)
        return
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    text = f"[{','.join(lines)}]" if path.suffix == ".json" else "\n".join(lines) + "\n"
    path.write_text(text, encoding="utf-8")


def folder_of(benchmark, tmp_path, rows=None):
    """A folder with the benchmark's pictures, and its small rows or those given."""
    name, small, _ = ROWS[benchmark]
    write(tmp_path / benchmark / name, small)
    if rows is not None:
        write_table(tmp_path / benchmark / name, rows)
    return tmp_path / benchmark


def make(benchmark, source, **keywords):
    keywords = {"split": "test", "tools": ZOOM, "source": str(source), **keywords}
    return gym.make(ENV_IDS[benchmark], **keywords).unwrapped
