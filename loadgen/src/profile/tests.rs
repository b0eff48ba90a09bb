use super::*;

/// The faults of factory-wired with `from` replaced by `to`.
#[track_caller]
fn faults(from: &str, to: &str) -> Vec<String> {
    let text = Profile::text("factory-wired").unwrap();
    assert!(text.contains(from), "{from} is not in the profile any more");
    let faults = Profile::parse(&text.replace(from, to)).unwrap_err();
    faults.iter().map(ToString::to_string).collect()
}

#[test]
fn every_profile_of_the_crate_is_read_and_has_its_own_name() {
    for name in Profile::names() {
        let profile = Profile::load(name).unwrap();
        assert_eq!(profile.name, name);
        assert!(!profile.about.is_empty());
    }
}

#[test]
fn every_figure_of_a_profile_names_its_source() {
    for (name, text) in BUILT_IN {
        for (number, section) in text.split("\n[").enumerate().skip(1) {
            let said = section.contains("Source:") || section.contains("Assumption:");
            assert!(said, "{name}, section {number}: [{section}");
        }
    }
}

#[test]
fn a_key_nobody_knows_is_a_fault() {
    let found = faults("[retry]", "[retry]\ncolour = \"red\"");
    assert_eq!(found, ["retry.colour = \"red\": expected no such key here"]);
}

#[test]
fn a_value_out_of_range_is_named_with_its_range() {
    let found = faults("lost_in_bad = ", "lost_in_bad = 1.5 # ");
    assert_eq!(found, ["loss.lost_in_bad = 1.5: expected a number from 0 to 1"]);
}

#[test]
fn a_missing_key_is_a_fault() {
    let found = faults("base_s = ", "# ");
    assert!(found[0].starts_with("retry.base_s = (nothing): expected a number"), "{found:?}");
}

#[test]
fn a_wrong_name_is_told_the_right_ones() {
    let found = faults("law = \"decorrelated\"", "law = \"sometimes\"");
    assert!(found[0].contains("\"full-jitter\""), "{found:?}");
}

#[test]
fn all_faults_are_told_at_once() {
    let text = "name = 3\n[outage]\nevery_s = -1\nfor_s = { law = \"weibull\" }\n";
    let faults = Profile::parse(text).unwrap_err();
    let keys: Vec<_> = faults.iter().map(|fault| fault.key.as_str()).collect();
    let expected = [
        "name",
        "about",
        "outage.every_s",
        "outage.for_s.scale",
        "outage.for_s.shape",
        "outage.new_address",
    ];
    assert_eq!(keys, expected);
}

#[test]
fn what_is_no_toml_is_told_with_its_line() {
    let faults = Profile::parse("name = \"a\"\nabout = \n").unwrap_err();
    assert_eq!(faults[0].key, "line 2");
}

#[test]
fn a_name_that_is_none_is_told_the_names_there_are() {
    let faults = Profile::load("phone").unwrap_err();
    assert!(faults[0].contains("home-wifi"), "{faults:?}");
}

#[test]
fn compression_leaves_the_link_alone() {
    let slow = Profile::load("meter-nbiot").unwrap();
    let fast = slow.clone().compressed(60.0);
    assert_eq!((slow.link, slow.loss), (fast.link, fast.loss));
    assert!((slow.sleep.unwrap().every_s / fast.sleep.unwrap().every_s - 60.0).abs() < 1e-9);
}
