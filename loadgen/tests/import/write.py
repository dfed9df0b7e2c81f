"""Writes files of devices as other systems write them.

Arguments: format, input (lines of JSON: device, token, latitude, longitude, locale, segments,
observed in ms, muted or null), output. Exit code 77: a package is missing.
"""

import csv
import datetime
import json
import sys

kind, source, target = sys.argv[1:4]
rows = [json.loads(line) for line in open(source, encoding="utf-8")]


def rfc_3339(ms):
    return datetime.datetime.fromtimestamp(ms / 1000, datetime.timezone.utc).isoformat()


if kind == "csv":
    # As spreadsheets write it: byte order mark, CRLF, semicolons, everything quoted.
    with open(target, "w", newline="", encoding="utf-8-sig") as out:
        writer = csv.writer(out, dialect="excel", delimiter=";", quoting=csv.QUOTE_ALL)
        writer.writerow(["App", "Device", "Token", "Latitude", "Longitude", "Locale", "Segments",
                         "Observed", "Muted"])
        for row in rows:
            muted = "" if row["muted"] is None else str(row["muted"])
            writer.writerow([row["app"], row["device"], row["token"].upper(), row["latitude"],
                             row["longitude"], row["locale"], " ".join(row["segments"]),
                             rfc_3339(row["observed"]), muted])
elif kind == "pyarrow":
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        sys.exit(77)
    columns = {name: [row[name] or None for row in rows] for name in ("app", "device", "locale")}
    columns["token"] = [row["token"] for row in rows]
    columns["latitude"] = [row["latitude"] for row in rows]
    columns["longitude"] = [row["longitude"] for row in rows]
    columns["segments"] = pa.array([row["segments"] for row in rows], pa.list_(pa.string()))
    columns["observed"] = pa.array([row["observed"] * 1000 for row in rows], pa.timestamp("us"))
    columns["muted"] = pa.array([row["muted"] for row in rows], pa.bool_())
    pq.write_table(pa.table(columns), target, row_group_size=70, data_page_size=2_000,
                   compression={"token": "gzip", "device": "zstd", "app": "none"},
                   data_page_version="2.0", use_dictionary=["app", "locale"])
elif kind == "duckdb":
    try:
        import duckdb
    except ImportError:
        sys.exit(77)
    db = duckdb.connect()
    db.execute("CREATE TABLE t (app TEXT, device UUID, token TEXT, latitude DECIMAL(9, 6),"
               " longitude DECIMAL(9, 6), locale TEXT, segments TEXT[], observed TIMESTAMPTZ,"
               " muted BOOLEAN)")
    db.execute("SET TimeZone = 'Asia/Shanghai'")
    db.executemany("INSERT INTO t VALUES (?, ?, ?, ?, ?, ?, ?, ?::TIMESTAMPTZ, ?)",
                   [[row["app"], row["device"] or None, row["token"], row["latitude"],
                     row["longitude"], row["locale"], row["segments"], rfc_3339(row["observed"]),
                     row["muted"]] for row in rows])
    db.execute(f"COPY t TO '{target}' (FORMAT parquet, COMPRESSION zstd)")
else:
    sys.exit(f"unknown format {kind}")
