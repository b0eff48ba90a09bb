//! The filters with wildcards, level by level.
//!
//! A node is a sequence of filter levels. `#` is no node but a mark on the node before it, so
//! `dev/123/#` costs one node of its own. The edges of all nodes lie in one table keyed by
//! (parent, level): a node with a million children costs no more a child than one with two.

use super::index_table::IndexTable;
use super::slab::{Link, Slab};
use ahash::RandomState;
use smallvec::SmallVec;

/// The wildcard filters of a tree; each leads to a number of the caller's.
#[derive(Debug)]
pub(super) struct WildcardTrie {
    nodes: Slab<Node>,
    edges: IndexTable,
    hash: RandomState,
    filter_count: usize,
    /// Allocated by levels too long to be inline.
    level_bytes: usize,
}

/// Where a wildcard filter ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leaf {
    node: u32,
    /// The filter ends with `#` below `node`.
    multi_level: bool,
}

/// Before the first level. It is never removed.
const ROOT: u32 = 0;

#[derive(Debug)]
struct Node {
    level: Level,
    parent: u32,
    /// Children in `edges`: all but the one of `+`.
    literal_children: u32,
    /// The child for `+`.
    single_level: Link,
    /// The filter that ends here.
    exact: Link,
    /// The filter that ends here with `#`.
    multi_level: Link,
}

const _: () = assert!(size_of::<Option<Node>>() == 48, "there may be millions of nodes");

impl WildcardTrie {
    pub(super) fn new(hash: RandomState) -> Self {
        let mut nodes = Slab::new();
        let root = nodes.insert(Node::new(ROOT, Level::new("")));
        assert!(root == ROOT, "the first number of a slab is 0");
        Self { nodes, edges: IndexTable::new(), hash, filter_count: 0, level_bytes: 0 }
    }

    /// Enters `filter`, which is not there yet, and makes it lead to `target`.
    pub(super) fn insert(&mut self, filter: &str, target: u32) -> Leaf {
        let (levels, multi_level) = split_multi_level(filter);
        let mut node = ROOT;
        for level in levels.into_iter().flat_map(|levels| levels.split('/')) {
            node = self.child(node, level).unwrap_or_else(|| self.add_child(node, level));
        }
        let leaf = Leaf { node, multi_level };
        let link = self.nodes.at_mut(node).link_mut(multi_level);
        assert!(*link == Link::NONE, "a filter is inserted once");
        *link = Link::to(target);
        self.filter_count += 1;
        leaf
    }

    /// Takes the filter at `leaf` out, with the nodes that only it needed.
    pub(super) fn remove(&mut self, leaf: Leaf) {
        *self.nodes.at_mut(leaf.node).link_mut(leaf.multi_level) = Link::NONE;
        self.filter_count -= 1;
        let mut index = leaf.node;
        while index != ROOT && self.nodes.at(index).is_unused() {
            index = self.remove_node(index);
        }
    }

    /// What `filter` leads to.
    pub(super) fn find(&self, filter: &str) -> Option<u32> {
        let (levels, multi_level) = split_multi_level(filter);
        let mut node = ROOT;
        for level in levels.into_iter().flat_map(|levels| levels.split('/')) {
            node = self.child(node, level)?;
        }
        self.nodes.at(node).link(multi_level).get()
    }

    /// Appends the text of the filter at `leaf`.
    pub(super) fn write_filter(&self, leaf: Leaf, out: &mut String) {
        let mut path = SmallVec::<[u32; INLINE_LEVELS]>::new();
        let mut index = leaf.node;
        while index != ROOT {
            path.push(index);
            index = self.nodes.at(index).parent;
        }
        let mut separator = "";
        for &index in path.iter().rev() {
            out.push_str(separator);
            out.push_str(self.nodes.at(index).level.as_str());
            separator = "/";
        }
        if leaf.multi_level {
            out.push_str(separator);
            out.push('#');
        }
    }

    /// Calls `found` with what each matching filter leads to.
    ///
    /// Visits the nodes whose levels match the start of the topic and no others: at most two to
    /// the power of the topic's depth, and only where filters with `+` really branch. Nothing is
    /// allocated for topics of fewer than [`INLINE_LEVELS`] levels, and there is no recursion for
    /// a topic of 65,535 separators to exhaust.
    ///
    /// # Source
    ///
    /// MQTT 5.0 §4.7.1, §4.7.2 [MQTT-4.7.2-1]; MQTT 3.1.1 §4.7.1, §4.7.2 [MQTT-4.7.2-1].
    pub(super) fn matches(&self, topic: &str, mut found: impl FnMut(u32)) {
        if self.filter_count == 0 {
            return;
        }
        let is_dollar_topic = topic.starts_with('$');
        let mut visits = SmallVec::<[Visit; INLINE_LEVELS]>::new();
        visits.push(Visit { node: ROOT, start: 0 });
        while let Some(Visit { node: index, start }) = visits.pop() {
            let node = self.nodes.at(index);
            let wildcards_apply = !(is_dollar_topic && index == ROOT);
            if let Some(target) = node.multi_level.get().filter(|_| wildcards_apply) {
                found(target);
            }
            let Some(rest) = topic.get(start..) else {
                node.exact.get().into_iter().for_each(&mut found);
                continue;
            };
            let level = rest.split_once('/').map_or(rest, |(level, _)| level);
            let start = start + level.len() + 1;
            if let Some(node) = node.single_level.get().filter(|_| wildcards_apply) {
                visits.push(Visit { node, start });
            }
            if let Some(node) = self.literal_child(index, level) {
                visits.push(Visit { node, start });
            }
        }
    }

    /// Bytes allocated.
    pub(super) fn memory_bytes(&self) -> usize {
        self.nodes.memory_bytes() + self.edges.memory_bytes() + self.level_bytes
    }

    /// Nodes in use besides the root.
    #[cfg(test)]
    pub(super) fn node_count(&self) -> usize {
        self.nodes.len() - 1
    }

    fn child(&self, parent: u32, level: &str) -> Option<u32> {
        if level == "+" {
            return self.nodes.at(parent).single_level.get();
        }
        self.literal_child(parent, level)
    }

    fn literal_child(&self, parent: u32, level: &str) -> Option<u32> {
        if self.nodes.at(parent).literal_children == 0 {
            return None;
        }
        self.edges.find(edge_hash(&self.hash, parent, level.as_bytes()), |child| {
            let node = self.nodes.at(child);
            node.parent == parent && node.level.as_bytes() == level.as_bytes()
        })
    }

    fn add_child(&mut self, parent: u32, level: &str) -> u32 {
        let node = Node::new(parent, Level::new(level));
        self.level_bytes += node.level.heap_bytes();
        let child = self.nodes.insert(node);
        if level == "+" {
            self.nodes.at_mut(parent).single_level = Link::to(child);
            return child;
        }
        self.nodes.at_mut(parent).literal_children += 1;
        let Self { nodes, edges, hash, .. } = self;
        edges.insert(edge_hash(hash, parent, level.as_bytes()), child, |other| {
            let node = nodes.at(other);
            edge_hash(hash, node.parent, node.level.as_bytes())
        });
        child
    }

    /// Takes a node without children out and returns its parent.
    fn remove_node(&mut self, index: u32) -> u32 {
        let node = self.nodes.remove(index);
        self.level_bytes -= node.level.heap_bytes();
        let parent = self.nodes.at_mut(node.parent);
        if node.level.as_bytes() == b"+" {
            parent.single_level = Link::NONE;
        } else {
            parent.literal_children -= 1;
            self.edges.remove(edge_hash(&self.hash, node.parent, node.level.as_bytes()), index);
        }
        node.parent
    }
}

impl Node {
    fn new(parent: u32, level: Level) -> Self {
        Self {
            level,
            parent,
            literal_children: 0,
            single_level: Link::NONE,
            exact: Link::NONE,
            multi_level: Link::NONE,
        }
    }

    fn link(&self, multi_level: bool) -> Link {
        if multi_level { self.multi_level } else { self.exact }
    }

    fn link_mut(&mut self, multi_level: bool) -> &mut Link {
        if multi_level { &mut self.multi_level } else { &mut self.exact }
    }

    fn is_unused(&self) -> bool {
        self.literal_children == 0
            && self.single_level == Link::NONE
            && self.exact == Link::NONE
            && self.multi_level == Link::NONE
    }
}

/// A node that is still to be visited, with where the rest of the topic starts; past its end when
/// no level is left.
struct Visit {
    node: u32,
    start: usize,
}

/// Levels for which matching and writing a filter need no allocation.
const INLINE_LEVELS: usize = 32;

/// The text of one level, inline when it is short, as almost all are.
#[derive(Debug)]
enum Level {
    Inline { length: u8, bytes: [u8; INLINE_LEVEL_BYTES] },
    Heap(Box<str>),
}

/// What fits beside the length in the three words of a level.
const INLINE_LEVEL_BYTES: usize = 22;

impl Level {
    fn new(text: &str) -> Self {
        let mut bytes = [0; INLINE_LEVEL_BYTES];
        match (bytes.get_mut(..text.len()), u8::try_from(text.len())) {
            (Some(head), Ok(length)) => {
                head.copy_from_slice(text.as_bytes());
                Self::Inline { length, bytes }
            }
            _ => Self::Heap(text.into()),
        }
    }

    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Inline { length, bytes } => {
                bytes.get(..usize::from(*length)).expect("the length was that of a text inside")
            }
            Self::Heap(text) => text.as_bytes(),
        }
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).expect("copied whole from a str")
    }

    fn heap_bytes(&self) -> usize {
        match self {
            Self::Inline { .. } => 0,
            Self::Heap(text) => text.len(),
        }
    }
}

fn edge_hash(hash: &RandomState, parent: u32, level: &[u8]) -> u64 {
    hash.hash_one((parent, level))
}

/// The levels before a final `#`, `None` when `#` is all, and whether there is one.
fn split_multi_level(filter: &str) -> (Option<&str>, bool) {
    match filter.strip_suffix('#') {
        Some("") => (None, true),
        Some(levels) => (Some(levels.strip_suffix('/').unwrap_or(levels)), true),
        None => (Some(filter), false),
    }
}
