# Sourced. What `mpicc-proxy doctor --json` wrote to $work/report.

# levels: "NAME LEVEL" of all that is not ok.
levels() {
    python3 - "$work/report" <<'PYTHON'
import json, sys
for row in json.load(open(sys.argv[1]))["findings"]:
    if row["level"] == "ok":
        assert row["consequence"] is None and row["remedy"] is None, row
    else:
        assert row["finding"] and row["consequence"] and row["remedy"], row
        print(row["name"], row["level"])
PYTHON
}
