use super::*;
use crate::proto::routing::filter::filter_matches;
use proptest::prelude::*;
use proptest::sample::select;

const SEED: u64 = 0x5eed;

fn table(slots: usize) -> Arc<InterestTable> {
    Arc::new(InterestTable::new(SHARDS_MAX as u16, slots, SEED))
}

fn owner(table: &Arc<InterestTable>, shard: u16) -> InterestOwner {
    InterestOwner::new(Arc::clone(table), ShardIndex(shard))
}

#[test]
fn names_the_shards_whose_filters_may_match() {
    let table = table(INTEREST_SLOTS_DEFAULT);
    let mut first = owner(&table, 0);
    let mut last = owner(&table, 63);
    first.add("dev/1/state");
    first.add("dev/2/#");
    last.add("dev/+/state");

    let both = 1 | 1 << 63;
    assert_eq!(table.interested("dev/1/state"), both);
    assert_eq!(table.interested("dev/2"), both);
    assert_eq!(table.interested("dev/3/state"), 1 << 63);
    assert_eq!(table.interested("other"), 0);
    assert_eq!(table.interested("$SYS/x"), 0);
    last.add("#");
    assert_eq!(table.interested("other"), 1 << 63);
    assert_eq!(table.interested("$SYS/x"), 0);
}

#[test]
fn a_prefix_of_one_empty_level_is_not_the_empty_prefix() {
    let table = table(INTEREST_SLOTS_DEFAULT);
    owner(&table, 1).add("/+");
    assert_eq!(table.interested("/a"), 2);
    assert_eq!(table.interested("a/b"), 0);
}

#[test]
fn a_bit_goes_with_the_last_filter_of_its_slot() {
    let table = table(INTEREST_SLOTS_DEFAULT);
    let mut owner = owner(&table, 3);
    owner.add("a/+");
    owner.add("a/#");
    owner.remove("a/+");
    assert_eq!(table.interested("a/b"), 1 << 3);
    owner.remove("a/#");
    assert_eq!(table.interested("a/b"), 0);
    assert!(owner.counts.is_empty(), "no count is left behind");
}

/// Deeper prefixes are entered by their first levels, and the rest of a topic is still hashed.
#[test]
fn levels_past_the_limit_lose_no_message() {
    let table = table(INTEREST_SLOTS_DEFAULT);
    let mut owner = owner(&table, 0);
    let deep = ["x"; PREFIX_LEVELS_MAX + 4].join("/");
    owner.add(&format!("{deep}/#"));
    assert_eq!(table.interested(&deep), 1);
    assert_eq!(table.interested(&format!("{deep}/y")), 1);
    owner.remove(&format!("{deep}/#"));
    owner.add(&deep);
    assert_eq!(table.interested(&deep), 1);
    assert_eq!(table.interested(&format!("{deep}/y")), 0);
    assert_eq!(table.interested(&"/".repeat(65_535)), 0);
}

#[test]
fn slots_are_rounded_up_to_a_power_of_two() {
    for (slots, rounded) in [(0, 1), (1, 1), (3, 4), (1_024, 1_024)] {
        assert_eq!(InterestTable::new(SHARDS_MAX as u16, slots, SEED).literals.len(), rounded);
    }
}

#[test]
fn a_region_of_prefixes_is_there_when_a_filter_needs_it() {
    let table = table(1_024);
    let mut owner = owner(&table, 0);
    owner.add("a/b/c");
    owner.add("#");
    assert_eq!(table.memory_bytes(), 8 * 1_024);
    owner.add("a/b/+");
    owner.add("c/d/#");
    assert_eq!(table.memory_bytes(), 2 * 8 * 1_024);
}

/// All topics of a site share their prefixes. When these shared slots with literal filters, one
/// such collision made every topic of the site interesting (seen with this very test).
#[test]
fn few_topics_interest_a_shard_in_vain() {
    const SLOTS: usize = 1 << 14;
    let table = table(SLOTS);
    let mut owner = owner(&table, 0);
    for device in 0..SLOTS / 4 {
        owner.add(&format!("dev/{device}/state"));
        owner.add(&format!("group/{device}/#"));
    }
    for site in ["other", "dev", "$SYS"] {
        let in_vain = (0..10_000)
            .filter(|topic| table.interested(&format!("{site}/x{topic}/state")) != 0)
            .count();
        // 22 % of the slots are taken in both regions that are asked: 39 % of topics hit one.
        assert!((3_400..4_500).contains(&in_vain), "{in_vain} of 10,000 below {site}");
    }
}

#[test]
#[should_panic(expected = "at most 64 shards")]
fn refuses_a_shard_without_a_bit() {
    let _ = owner(&table(16), 64);
}

fn words(table: &InterestTable) -> impl Iterator<Item = &AtomicU64> {
    let prefixes = table.prefixes.iter().filter_map(OnceLock::get);
    prefixes.chain([&table.literals]).flatten().chain([&table.everything])
}

fn level() -> impl Strategy<Value = &'static str> {
    select(vec!["a", "b", "", "$a", "$", "\u{fc}\u{1f980}"])
}

fn topic() -> impl Strategy<Value = String> {
    prop::collection::vec(level(), 1..PREFIX_LEVELS_MAX + 3).prop_map(|levels| levels.join("/"))
}

/// A filter that matches `topic`: some levels become `+`, some of the end becomes `#`.
fn matching_filter(topic: &str, choices: &[u8]) -> String {
    let keep_dollar = topic.starts_with('$');
    let mut levels = Vec::new();
    for (depth, level) in topic.split('/').enumerate() {
        let choice = choices.get(depth).copied().unwrap_or(0);
        if depth == 0 && keep_dollar {
            levels.push(level);
        } else if choice == 2 {
            levels.push("#");
            return levels.join("/");
        } else {
            levels.push(if choice == 1 { "+" } else { level });
        }
    }
    if choices.first() == Some(&3) {
        levels.push("#");
    }
    levels.join("/")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever a shard's filters match, it is named for; and after all left, no bit remains.
    #[test]
    fn interest_never_misses(
        slots in select(vec![1_usize, 8, 1 << 12]),
        entries in prop::collection::vec(
            (topic(), prop::collection::vec(0..8_u8, 0..8), 0..3_u16, any::<bool>()),
            1..24,
        ),
        topics in prop::collection::vec(topic(), 0..8),
    ) {
        let table = table(slots);
        let mut owners: Vec<_> = (0..3).map(|shard| owner(&table, shard)).collect();
        let filters: Vec<_> = entries
            .iter()
            .map(|(topic, choices, shard, stays)| (matching_filter(topic, choices), *shard, *stays))
            .collect();
        for (filter, shard, _) in &filters {
            owners[usize::from(*shard)].add(filter);
        }
        for (filter, shard, _) in filters.iter().filter(|(.., stays)| !stays) {
            owners[usize::from(*shard)].remove(filter);
        }
        for ((topic, ..), (filter, ..)) in entries.iter().zip(&filters) {
            prop_assert!(filter_matches(filter, topic), "{} {}", filter, topic);
        }
        for topic in entries.iter().map(|(topic, ..)| topic).chain(&topics) {
            let interested = table.interested(topic);
            for (filter, shard, _) in filters.iter().filter(|(.., stays)| *stays) {
                let named = interested & (1 << shard) != 0;
                prop_assert!(named || !filter_matches(filter, topic), "{} {}", filter, topic);
            }
        }
        for (filter, shard, _) in filters.iter().filter(|(.., stays)| *stays) {
            owners[usize::from(*shard)].remove(filter);
        }
        prop_assert!(words(&table).all(|word| word.load(Ordering::Relaxed) == 0));
    }
}

/// Slots of few shards share a word: none of them disturbs its neighbours.
#[test]
fn narrow_slots_keep_apart() {
    for shard_count in [1, 2, 8, 9, 16, 33] {
        let table = Arc::new(InterestTable::new(shard_count, 64, SEED));
        let mut owners: Vec<_> = (0..shard_count)
            .map(|shard| InterestOwner::new(Arc::clone(&table), ShardIndex(shard)))
            .collect();
        let filter = |number: u16| format!("f/{number}");
        for number in 0..200 {
            owners[usize::from(number % shard_count)].add(&filter(number));
        }
        for number in 0..200 {
            let bit = 1_u64 << (number % shard_count);
            assert_ne!(table.interested(&filter(number)) & bit, 0, "{shard_count} shards");
        }
        for number in 0..200 {
            owners[usize::from(number % shard_count)].remove(&filter(number));
        }
        for number in 0..200 {
            assert_eq!(table.interested(&filter(number)), 0, "{shard_count} shards");
        }
    }
}
