use std::{fmt::Write as _, fs, path::Path};

use serde_json::Value;

use super::*;

/// A sequence of numbers from a seed. Source: Knuth's MMIX multiplier.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// The series of one thread.
fn of_seconds(points: impl Iterator<Item = Point>) -> Series {
    let mut builder = series::SeriesBuilder::default();
    for (second, point) in (0..).zip(points) {
        builder.add(second, &point, true);
    }
    builder.finish()
}

/// The result of nothing: one worker, one group, `seconds` of silence.
fn empty(seconds: u32, hostname: &str) -> RunResult {
    let series = of_seconds((0..seconds).map(|_| Point::default()));
    RunResult {
        schema_version: SCHEMA_VERSION,
        run: Run {
            scenario: "bench fan-in".to_owned(),
            broker_url: "mqtt://127.0.0.1:1883".to_owned(),
            workers: 1,
            groups: vec![Group {
                name: "publishers".to_owned(),
                devices: 0,
                publish_rate_per_s: Some(0.0),
                ..Group::default()
            }],
            ..Run::default()
        },
        verdict: VerdictRecord { outcome: Outcome::Held, reasons: Vec::new() },
        totals: Totals::default(),
        times: Distributions::default(),
        ledger: LedgerRecord::default(),
        storms: vec![Storm::new(3.0, 0, Times::new())],
        phases: vec![Phase { end_s: seconds.into(), ..Phase::new("measure", 0.0, true) }],
        series,
        processes: Vec::new(),
        hosts: vec![Host { hostname: hostname.to_owned(), ..Host::default() }],
        fleet: None,
    }
}

/// Enters one device's share of a run: what it sent, got, waited and lost.
fn enter(result: &mut RunResult, device: u64, seconds: u32) {
    let mut numbers = Numbers(device);
    let group = result.run.groups.first_mut().unwrap();
    group.devices += 1;
    group.publish_rate_per_s = group.publish_rate_per_s.map(|rate| rate + 2.0);
    let connected = numbers.below(2);
    let mut points = Vec::new();
    for _ in 0..seconds {
        let mut point = Point {
            published: numbers.below(50),
            delivered: numbers.below(50),
            connects: numbers.below(3),
            connected,
            lag_max_us: numbers.below(5_000),
            ..Point::default()
        };
        for _ in 0..point.delivered {
            let nanos = 1_000 + numbers.below(3_000_000_000);
            point.latency.record_ns(nanos);
            result.times.latency.record_ns(nanos);
        }
        result.totals.delivered += point.delivered;
        result.ledger.owed += point.delivered + 1;
        result.ledger.lost += 1;
        result.phases.first_mut().unwrap().delivered += point.delivered;
        points.push(point);
    }
    result.series.merge(of_seconds(points.into_iter()));
    let storm = result.storms.first_mut().unwrap();
    let mut recovery = storm.recovery.clone();
    recovery.record_ns(numbers.below(20_000_000_000));
    *storm = Storm::new(storm.start_s, storm.devices + 1, recovery);
    if numbers.below(4) == 0 {
        result.verdict.outcome = result.verdict.outcome.max(Outcome::Broken);
    }
}

#[track_caller]
fn check_merge(workers: u64, devices: u64, seconds: u32) {
    let mut whole = empty(seconds, "all");
    whole.run.workers = u32::try_from(workers).unwrap();
    let mut parts: Vec<_> = (0..workers).map(|n| empty(seconds, &format!("worker-{n}"))).collect();
    for device in 0..devices {
        enter(&mut whole, device, seconds);
        enter(&mut parts[usize::try_from(device % workers).unwrap()], device, seconds);
    }
    // By the way of the file, as workers on other machines do it.
    let parts = parts.iter().map(|part| {
        let text = serde_json::to_string(part).unwrap();
        serde_json::from_str(&text).unwrap()
    });
    let mut merged = merge(parts.collect()).unwrap();
    assert_eq!(merged.hosts.len(), usize::try_from(workers).unwrap());
    merged.hosts.clone_from(&whole.hosts);
    assert_eq!(merged, whole);
}

#[test]
fn the_merged_parts_say_what_the_whole_says() {
    check_merge(1, 5, 10);
    check_merge(3, 20, 30);
    check_merge(7, 4, 5);
}

#[test]
fn a_long_run_is_kept_in_longer_intervals_and_merges_alike() {
    let seconds = u32::try_from(series::POINTS_MAX).unwrap() * 2 + 3;
    let point = Point { published: 1, connected: 2, connections_lost: 1, ..Point::default() };
    let (mut both, mut one) = (series::SeriesBuilder::default(), series::SeriesBuilder::default());
    for second in 0..seconds {
        one.add(second, &point, true);
        both.add(second, &point, true);
        // The other thread's second has two phases.
        both.add(second, &Point { published: 1, ..Point::default() }, false);
        both.add(second, &Point { published: 0, ..point.clone() }, true);
    }
    let (whole, half) = (both.finish(), one.finish());
    assert_eq!(whole.interval_s, 4);
    assert!(whole.points.len() <= series::POINTS_MAX);
    let sent: u64 = whole.points.iter().map(|point| point.published).sum();
    assert_eq!(sent, 2 * u64::from(seconds));
    let are = |point: &Point| (point.connected, point.connections_lost) == (4, 2);
    assert!(whole.points.iter().all(are), "gauges are not summed over time");
    let mut merged = half.clone();
    merged.merge(half);
    assert_eq!(merged, whole);
}

#[test]
fn a_short_part_is_quiet_afterwards_but_its_losses_stay() {
    let lost = Point { connections_lost: 3, connected: 9, ..Point::default() };
    let mut short = of_seconds([lost].into_iter());
    let long = of_seconds((0..4).map(|_| Point { connected: 1, ..Point::default() }));
    short.merge(long);
    let last = short.points.last().unwrap();
    assert_eq!((short.points.len(), last.connected, last.connections_lost), (4, 1, 3));
}

#[test]
fn parts_of_different_runs_are_refused() {
    let other = RunResult {
        run: Run { scenario: "idle".to_owned(), ..empty(1, "a").run },
        ..empty(1, "b")
    };
    let error = merge(vec![empty(1, "a"), other]).unwrap_err();
    assert!(error.to_string().contains("scenario"), "{error}");
    assert!(merge(Vec::new()).is_err());
}

#[test]
fn a_storm_says_when_so_many_are_back() {
    let mut recovery = Times::new();
    for millis in 1..=99 {
        recovery.record_ns(millis * 100_000_000);
    }
    let storm = Storm::new(0.0, 100, recovery.clone());
    let seconds = |time: Option<f64>| time.map(|time| (time * 10.0).round() / 10.0);
    assert_eq!(seconds(storm.t50_s), Some(5.0));
    assert_eq!(seconds(storm.t99_s), Some(9.9));
    assert_eq!(storm.t100_s, None, "one never came back");
    assert_eq!(seconds(Storm::new(0.0, 99, recovery).t100_s), Some(9.9));
}

#[test]
fn a_folder_is_read_as_it_was_written() {
    let folder = std::env::temp_dir().join(format!("loadgen-result-{}", std::process::id()));
    let mut result = empty(3, "a");
    for device in 0..4 {
        enter(&mut result, device, 3);
    }
    write(&folder, &result).unwrap();
    assert_eq!(read(&folder).unwrap(), result);
    let log = fs::read_to_string(folder.join("times.hlog")).unwrap();
    let whole = log.lines().find(|line| line.starts_with("Tag=latency,")).unwrap();
    let encoded = whole.rsplit(',').next().unwrap();
    let json: Value =
        serde_json::from_str(&fs::read_to_string(folder.join("result.json")).unwrap()).unwrap();
    assert_eq!(json["times"]["latency"]["hdr"], encoded, "the log has the same histogram");

    let newer = serde_json::to_string(&RunResult { schema_version: 2, ..result }).unwrap();
    fs::write(folder.join("result.json"), newer).unwrap();
    let error = read(&folder).unwrap_err().to_string();
    assert!(error.contains("schema_version is 2"), "{error}");
    fs::remove_dir_all(&folder).unwrap();
    assert!(read(&folder).is_err());
}

/// RESULT.md is made of the doc comments of the schema. `UPDATE_RESULT_MD=1` writes it.
#[test]
fn the_document_is_that_of_the_schema() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("RESULT.md");
    let made = document(schemars::schema_for!(RunResult).as_value());
    if std::env::var_os("UPDATE_RESULT_MD").is_some() {
        fs::write(&path, &made).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == made, "run this test with UPDATE_RESULT_MD=1 and look at the difference");
}

const INTRODUCTION: &str = "# result.json

What `loadgen` keeps of a run with `--out DIR`, and what `loadgen report`, `plan` and `compare` read.
Beside it is `times.hlog`: the same histograms in HdrHistogram's log format, interval by interval under
the tag `latency-interval`, then each of [`times`](#distributions) as a whole.

This page is made from the types in `src/result/`; a test holds it to them. Fields may be added; when one
changes its meaning or goes, `schema_version` goes up.

```sh
jq '.verdict, .times.latency.p99_us' DIR/result.json
jq -r '.series.points[] | [.delivered, .latency.p99_us] | @tsv' DIR/result.json
```
";

/// A section a type, a table of its fields.
fn document(schema: &Value) -> String {
    let mut text = INTRODUCTION.to_owned();
    section(&mut text, "RunResult", schema);
    let definitions = schema["$defs"].as_object().unwrap();
    for (name, definition) in definitions {
        section(&mut text, name, definition);
    }
    text
}

fn section(text: &mut String, name: &str, schema: &Value) {
    let prose = |value: &Value| {
        let words = value["description"].as_str().unwrap_or_default().replace('\n', " ");
        // Links between types mean something in rustdoc only.
        words.replace("[`", "`").replace("`]", "`")
    };
    write!(text, "\n## {name}\n\n{}\n\n", prose(schema)).unwrap();
    if let Some(variants) = schema["oneOf"].as_array() {
        text.push_str("| value | meaning |\n|---|---|\n");
        for variant in variants {
            writeln!(text, "| `{}` | {} |", variant["const"], prose(variant)).unwrap();
        }
        return;
    }
    text.push_str("| field | type | meaning |\n|---|---|---|\n");
    for (field, value) in schema["properties"].as_object().unwrap() {
        let meaning = prose(value);
        assert!(!meaning.is_empty(), "{name}.{field} has no doc comment");
        writeln!(text, "| `{field}` | {} | {meaning} |", kind(value)).unwrap();
    }
}

fn kind(value: &Value) -> String {
    if let Some(reference) = value["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap();
        return format!("[{name}](#{})", name.to_lowercase());
    }
    if let Some(either) = value["anyOf"].as_array() {
        return either.iter().map(kind).collect::<Vec<_>>().join(" or ");
    }
    let of = |name: &str| match name {
        "array" => format!("list of {}", kind(&value["items"])),
        "number" => "number".to_owned(),
        "integer" => "whole number".to_owned(),
        other => other.to_owned(),
    };
    match &value["type"] {
        Value::String(name) => of(name),
        Value::Array(names) => {
            let names = names.iter().filter_map(Value::as_str);
            names.map(of).collect::<Vec<_>>().join(" or ")
        }
        other => panic!("a field of type {other}"),
    }
}
