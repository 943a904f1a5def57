"""Write one CSV file a day of a small made-up web shop: python make_csv.py [FOLDER] [DAYS] [ROWS_PER_DAY]."""

from __future__ import annotations

import csv
import math
import random
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

USERS, PRODUCTS, CATEGORIES, SHOWN = 400, 120, 6, 4
START = datetime(2026, 3, 1, tzinfo=UTC)
COLUMNS = ["time", "user", "page_view", "product", "category", "price", "device", "in_basket"]


def write_shop(folder: Path, days: int = 11, rows_per_day: int = 6000, seed: int = 1) -> list[Path]:
    """One file a day. Products go in and out of fashion, users like some categories: what a history can tell."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(seed)
    fashion = [chance.gauss(0, 1) for _ in range(PRODUCTS)]
    price = [round(math.exp(chance.gauss(3, 0.6)), 2) for _ in range(PRODUCTS)]
    taste = [[chance.gauss(0, 1) for _ in range(CATEGORIES)] for _ in range(USERS)]
    files = []
    for day in range(days):
        fashion = [0.9 * f + chance.gauss(0, 0.44) for f in fashion]
        files.append(folder / f"shop-{START + timedelta(days=day):%Y-%m-%d}.csv")
        with files[-1].open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(COLUMNS)
            for view in range(rows_per_day // SHOWN):
                writer.writerows(_page_view(chance, day, view, fashion, price, taste))
    return files


def _page_view(
    chance: random.Random, day: int, view: int, fashion: list[float], price: list[float], taste: list[list[float]]
) -> list[list[object]]:
    """One user sees a few products at once; each may go into the basket."""
    time = START + timedelta(days=day, seconds=chance.randrange(86_400))
    user, device = chance.randrange(USERS), chance.choice(["phone", "desktop"])
    rows: list[list[object]] = []
    for product in chance.sample(range(PRODUCTS), SHOWN):
        category = product % CATEGORIES
        score = -1.6 + 1.1 * fashion[product] + 0.8 * taste[user][category] - 0.004 * price[product]
        added = int(chance.random() < 1 / (1 + math.exp(-score)))
        name = f"{time:%Y-%m-%dT%H:%M:%SZ}"
        rows.append([name, f"u{user}", f"{day}-{view}", f"p{product}", category, price[product], device, added])
    return rows


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "data")
    written = write_shop(target, *(int(text) for text in sys.argv[2:4]))
    print(f"{len(written)} files in {target}")
