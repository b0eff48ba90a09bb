//! A result on disk: a folder with `result.json` and `times.hlog`.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use hdrhistogram::serialization::{
    V2DeflateSerializer,
    interval_log::{IntervalLogWriterBuilder, Tag},
};

use super::{RunResult, SCHEMA_VERSION};

/// The file with everything.
const RESULT: &str = "result.json";
/// The histograms again, as HdrHistogram's log tools read them.
const HISTOGRAM_LOG: &str = "times.hlog";

/// Writes `result` into `folder`, which is made if it is not there.
///
/// # Errors
///
/// What the file system says, with the path.
pub(crate) fn write(folder: &Path, result: &RunResult) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut text = serde_json::to_vec_pretty(result).context("cannot write a result as JSON")?;
    text.push(b'\n');
    write_file(&folder.join(RESULT), &text)?;
    let log = histogram_log(result).context("cannot write the histograms as a log")?;
    write_file(&folder.join(HISTOGRAM_LOG), &log)
}

/// Reads a result from its folder, or from the file itself.
///
/// # Errors
///
/// When there is none, or it is not one that this program understands.
pub(crate) fn read(path: &Path) -> anyhow::Result<RunResult> {
    let file = if path.is_dir() { path.join(RESULT) } else { path.to_owned() };
    let text = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let value: serde_json::Value =
        serde_json::from_slice(&text).with_context(|| format!("{} is no JSON", file.display()))?;
    let version = value.get("schema_version").and_then(serde_json::Value::as_u64);
    ensure!(
        version == Some(u64::from(SCHEMA_VERSION)),
        "{}: schema_version is {}, this loadgen reads {SCHEMA_VERSION}",
        file.display(),
        version.map_or_else(|| "missing".to_owned(), |version| version.to_string())
    );
    serde_json::from_value(value)
        .with_context(|| format!("{} is no result of loadgen", file.display()))
}

/// Writes `bytes` to `path` at once: a reader sees the old file or the new one.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let fresh = path.with_extension("new");
    let written = fs::File::create(&fresh)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&fresh, path));
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// Latency interval by interval, then each distribution of the run as a whole, with tags.
fn histogram_log(result: &RunResult) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    let started = Duration::from_millis(result.run.started_unix_ms);
    let start = std::time::UNIX_EPOCH + started;
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment("loadgen: nanoseconds; the column of maxima is in milliseconds")
        .with_start_time(start)
        .with_base_time(start)
        .with_max_value_divisor(1e6)
        .begin_log_with(&mut bytes, &mut serializer)?;
    let interval = Duration::from_secs(result.series.interval_s.into());
    let fault = |error| io::Error::other(format!("{error}"));
    for (number, point) in (0..).zip(&result.series.points) {
        let tag = Tag::new("latency-interval");
        log.write_histogram(point.latency.histogram(), interval * number, interval, tag)
            .map_err(fault)?;
    }
    let whole = Duration::try_from_secs_f64(result.run.duration_s).unwrap_or_default();
    let times = &result.times;
    for (tag, times) in [
        ("latency", &times.latency),
        ("latency-uncorrected", &times.latency_uncorrected),
        ("acknowledgement", &times.acknowledgement),
        ("connect", &times.connect),
        ("recovery", &times.recovery),
        ("lag", &times.lag),
    ] {
        log.write_histogram(times.histogram(), Duration::ZERO, whole, Tag::new(tag))
            .map_err(fault)?;
    }
    drop(log);
    Ok(bytes)
}
