"""A vector database in six steps: python chroma_travel.py PASSAGES.jsonl FOLDER QUESTION [MODEL]"""

import json
import sys
from pathlib import Path

import chromadb

from tunelab.embedding import CourseEmbedding  # any chromadb.EmbeddingFunction will do

file, folder, question = sys.argv[1:4]
rows = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]  # columns: id, kind, text
embed = CourseEmbedding(*sys.argv[4:])  # 1: preprocess
client = chromadb.PersistentClient(path=folder)
hnsw = {"space": "cosine", "max_neighbors": 16, "ef_construction": 100, "ef_search": 100}  # 2: index
desk = client.get_or_create_collection("passages", configuration={"hnsw": hnsw}, embedding_function=embed)
assert desk.configuration["hnsw"]["space"] == "cosine", "made with another space: choose another folder"
if gone := set(desk.get(include=[])["ids"]) - {row["id"] for row in rows}:
    desk.delete(ids=sorted(gone))  # 6: update, what is no longer in the file
for start in range(0, len(rows), 100):  # 3: store (and 6: update, what has changed)
    ids, kinds, texts = zip(*((r["id"], r["kind"], r["text"]) for r in rows[start : start + 100]), strict=True)
    desk.upsert(ids=list(ids), documents=list(texts), metadatas=[{"kind": kind} for kind in kinds])
found = desk.query(query_texts=[question], n_results=3)  # 4: query
for name, distance, text in zip(found["ids"][0], found["distances"][0], found["documents"][0], strict=True):
    print(f"{name} {1 - distance:.3f} {text}")  # 5: return; in this space the distance is 1 - cosine
