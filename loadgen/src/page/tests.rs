use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use super::*;
use crate::result::{self, RunResult, Storm};

/// A result as a run wrote it, and a storm, so that there is something of everything.
fn sample() -> RunResult {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/bench-result.json");
    let mut result = result::read(&path).unwrap();
    let recovery = result.times.latency.clone();
    result.storms.push(Storm::new(2.0, recovery.count(), recovery));
    result
}

#[test]
fn a_page_asks_nothing_of_the_network() {
    let page = run_report(&sample());
    for word in ["src=", "@import", "url(", "fetch(", "XMLHttpRequest", "<link"] {
        assert!(!page.contains(word), "{word}");
    }
    let addresses = page.matches("http").count();
    assert_eq!(addresses, page.matches("http://www.w3.org/2000/svg").count());
}

#[test]
fn what_a_broker_or_a_user_is_called_cannot_become_markup() {
    let mut result = sample();
    result.run.broker_name = Some("</title><script>alert(1)</script>".to_owned());
    if let Some(phase) = result.phases.first_mut() {
        phase.name = "</script><script>alert(2)</script>".to_owned();
    }
    let page = run_report(&result);
    assert_eq!(page.matches("<script").count(), 2, "only the page's own");
    assert!(!page.contains("alert(2)</script>"));
}

#[test]
fn figures_have_the_digits_that_matter() {
    let cases =
        [(0.0, "0.00"), (0.1234, "0.123"), (12.34, "12.3"), (123.4, "123"), (12_345.6, "12,346")];
    for (value, text) in cases {
        assert_eq!(figure(value), text);
    }
    assert_eq!((grouped(1_234_567).as_str(), grouped(12).as_str()), ("1,234,567", "12"));
    assert_eq!((bytes(351.0).as_str(), bytes(2_048.0).as_str()), ("351 B", "2.00 KiB"));
    assert_eq!((time_us(890.0).as_str(), time_us(1_500.0).as_str()), ("890 us", "1.50 ms"));
}

/// Chromium with nothing but the page; `None` where there is none and that is allowed.
fn chromium(name: &str, arguments: &[String]) -> Option<Output> {
    let profile =
        std::env::temp_dir().join(format!("loadgen-chromium-{name}-{}", std::process::id()));
    let output = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"])
        .args(["--disable-component-update", "--disable-sync", "--no-first-run"])
        .args(["--enable-logging=stderr", "--virtual-time-budget=2000"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .args(arguments)
        .output();
    let _ = fs::remove_dir_all(profile);
    match output {
        Ok(output) => Some(output),
        Err(error) => {
            assert!(
                std::env::var_os("CI").is_none(),
                "chromium: {error}; `make tools` installs it"
            );
            eprintln!("SKIPPED: chromium: {error}; `make tools` installs it");
            None
        }
    }
}

/// Has chromium draw `page`, and fails if it complains or not every chart is drawn.
#[track_caller]
pub(crate) fn check_drawn(name: &str, page: &str) {
    let file = std::env::temp_dir().join(format!("loadgen-{name}-{}.html", std::process::id()));
    let charts = page.matches("<figure").count();
    fs::write(&file, page).unwrap();
    let drawn = chromium(name, &["--dump-dom".to_owned(), format!("file://{}", file.display())]);
    fs::remove_file(&file).unwrap();
    let Some(output) = drawn else { return };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (dom, log) = (text(&output.stdout), text(&output.stderr));
    let complaints: Vec<_> = log.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
    assert!(dom.contains(&format!("data-drawn=\"{charts}\"")), "not all was drawn: {log}");
    assert_eq!(dom.matches("<svg").count(), charts);
    assert!(!dom.contains("NaN"), "a place that is no number");
}

#[test]
fn a_browser_draws_every_chart_without_complaint() {
    let page = run_report(&sample());
    let charts = page.matches("<figure").count();
    assert!(charts >= 8, "{charts} charts");
    check_drawn("run", &page);
}
