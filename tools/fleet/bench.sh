#!/bin/bash
# Measures database updates of fleets, draws docs/plots/fleet-*.svg and writes the
# part of docs/benchmarks.md between its markers. Needs bin/fleet and bin/trivy, about 25 minutes
# and 4 GB of memory for the making of the largest fleet; WORK keeps the fleets, so
# that a second run begins at once.
#
#   WORK=/dev/shm/pratique-fleet OLD=old.tar.gz tools/fleet/bench.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
WORK=${WORK:-/dev/shm/pratique-fleet}
SIZES=${SIZES:-1000 10000 100000}
LARGEST=${SIZES##* }
OLD=${OLD:-$WORK/database.tar.gz}
mkdir -p "$WORK" docs/plots
if [ ! -e "$OLD" ]; then
  go run ./tools/dbbuild -advisories testdata/advisories -updated 2026-11-22T06:00:00Z -tar "$OLD" > /dev/null
fi
for n in $SIZES; do
  if [ ! -e "$WORK/$n/fleet.json" ]; then
    rm -rf "${WORK:?}/$n"
    GOGC=300 bin/fleet fill -images "$n" -layers $((n / 5)) -components $((n * 2)) -database "$OLD" -o "$WORK/$n"
  fi
done

# measure SIZE ARCHIVE [-full]: one update of a copy of a fleet.
measure() {
  rm -rf "$WORK/run"
  cp -r "$WORK/$1" "$WORK/run"
  bin/fleet update -dir "$WORK/run" -database "$2" ${3:-}
  rm -rf "$WORK/run"
}
text=$WORK/text.md points=$WORK/points
number() { jq -r "$1" <<< "$result"; }

facts=$(jq -c .fleet "$WORK/$LARGEST/fleet.json")
cat > "$text" <<EOF
$(date -u +%F), $(nproc) CPUs ($(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1)), Linux $(uname -r), $(go env GOVERSION), load before the run $(cut -d' ' -f1 /proc/loadavg).
Fleet: $(jq -r '"\(.images) images, \(.layers) layers, \(.components) distinct components, \(.occurrences) occurrences, \(.findings) findings"' <<< "$facts").

| package keys changed | of them held | components matched | changed | images | import, s | **all reports current, s** | diff | match and write | join | CPU, s | each report read once, s | RSS, MiB |
|---|---|---|---|---|---|---|---|---|---|---|---|---|
EOF
: > "$points"
for share in 0.01 0.1 1 10 100; do
  made=$(bin/fleet mutate -database "$OLD" -fleet "$WORK/$LARGEST/fleet.json" -share $share -o "$WORK/new.tar.gz")
  result=$(measure "$LARGEST" "$WORK/new.tar.gz" "$([ $share = 1 ] && echo -full)")
  if [ $share = 1 ]; then pass=$result; fi
  echo "| $share % ($(jq -r .changed <<< "$made")) | $(jq -r .held <<< "$made") | $(number .components) | $(number .changed) | $(number .images) | $(number '.import*100|round/100') | **$(number '.rescan*100|round/100')** | $(number '.phases.diff*100|round/100') | $(number '.phases.match*100|round/100') | $(number '(.phases.images//0)*100|round/100') | $(number '.CPU // .cpu|.*100|round/100') | $(number '.read*10|round/10') | $(number .rss) |" >> "$text"
  for p in diff match images; do printf '%s\t%s\t%s\n' $p $share "$(number "(.phases.$p//0)")"; done >> "$points"
  printf 'all\t%s\t%s\n' $share "$(number .rescan)" >> "$points"
done
bin/fleet plot -title "An update of $LARGEST images" -x "package keys changed, per cent" -y "seconds until every report is current" -o docs/plots/fleet-share.svg < "$points"
cat >> "$text" <<EOF

A full pass over everything, after the update of 1 %: **$(jq -r '.fullPass*10|round/10' <<< "$pass") s** for $(jq -r .matched <<< "$pass") components ($(jq -r '.matched/.fullPass|round' <<< "$pass") a second), $(jq -r .different <<< "$pass") differences found.

The same 100 images changed, in fleets of other sizes:

| images | components matched | changed | images told | all reports current, s |
|---|---|---|---|---|
EOF
: > "$points"
for n in $SIZES; do
  bin/fleet mutate -database "$OLD" -fleet "$WORK/$n/fleet.json" -reserved -o "$WORK/new.tar.gz" > /dev/null
  result=$(measure "$n" "$WORK/new.tar.gz")
  echo "| $n | $(number .components) | $(number .changed) | $(number .images) | $(number '.rescan*100|round/100') |" >> "$text"
  printf 'all\t%s\t%s\n' "$n" "$(number .rescan)" >> "$points"
done
bin/fleet plot -title "The same 100 images change" -x "images in the fleet" -y "seconds until every report is current" -o docs/plots/fleet-size.svg < "$points"

# The trivy program on real images that are in the fleet too, everything in its cache.
cache=$WORK/trivy layout=$WORK/layout
rm -rf "$cache" "$layout"
mkdir -p "$cache/db" "$layout"
tar -xzf "$OLD" -C "$cache/db"
tar -xf testdata/images/images-small.tar -C "$layout"
root=$(dirname "$(find "$layout" -name index.json | head -1)")
images="app-skeleton debian-bookworm-skeleton debian-bullseye-skeleton debian-trixie-skeleton distroless-amd64-skeleton alpine39-apkdb alma9-rpmdb"
scan() {
  for image in $images; do
    bin/trivy image --quiet --input "$root:$image" --cache-dir "$cache" --skip-db-update --skip-java-db-update --offline-scan --scanners vuln -f json -o /dev/null
  done
}
scan
began=$(date +%s.%N)
for _ in 1 2 3; do scan; done
each=$(awk -v a="$began" -v b="$(date +%s.%N)" -v n="$(wc -w <<< "$images")" 'BEGIN { printf "%.3f", (b - a) / 3 / n }')
echo "
The trivy program, everything cached, in the same run: $each s for an image (means of 3 rounds over $(wc -w <<< "$images") real images, which are in the fleet too), $(awk -v e="$each" -v n="$LARGEST" 'BEGIN { printf "%.1f", e * n / 3600 }') h for $LARGEST of them one by one. Against that, per image of the fleet: an update of 1 % $(jq -r --argjson e "$each" --argjson n "$LARGEST" '($e * $n / .rescan) | round' <<< "$pass") times less, a full pass $(jq -r --argjson e "$each" --argjson n "$LARGEST" '($e * $n / .fullPass) | round' <<< "$pass") times less." >> "$text"

awk -v file="$text" '
  /^<!-- fleet measured -->$/ { print; while ((getline line < file) > 0) print line; skip = 1 }
  /^<!-- fleet end -->$/ { skip = 0 }
  !skip' docs/benchmarks.md > "$WORK/benchmarks.md"
cat "$WORK/benchmarks.md" > docs/benchmarks.md
