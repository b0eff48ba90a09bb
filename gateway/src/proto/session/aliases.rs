//! Topic aliases of one connection, both directions. Source: MQTT 5.0 §3.3.2.3.4.

/// Aliases the client set.
#[derive(Debug, Default)]
pub struct InboundAliases {
    topics: Vec<Option<Box<str>>>,
}

impl InboundAliases {
    /// Lets `alias` (1 to the maximum announced) mean `topic` from now on.
    pub fn set(&mut self, alias: u16, topic: &str) {
        let place = usize::from(alias).saturating_sub(1);
        if place >= self.topics.len() {
            self.topics.resize(place + 1, None);
        }
        if let Some(slot) = self.topics.get_mut(place) {
            *slot = Some(topic.into());
        }
    }

    /// Each alias with its topic.
    pub fn all(&self) -> impl Iterator<Item = (u16, &str)> {
        let named = self.topics.iter().enumerate();
        named.filter_map(|(place, topic)| Some((alias_of(place), topic.as_deref()?)))
    }

    /// The topic `alias` means, if the client said.
    #[must_use]
    pub fn get(&self, alias: u16) -> Option<&str> {
        self.topics.get(usize::from(alias).checked_sub(1)?)?.as_deref()
    }
}

/// Aliases we set towards the client: the first topics get them, later ones go in full.
#[derive(Debug, Default)]
pub struct OutboundAliases {
    topics: Vec<Box<str>>,
}

/// How to name a topic in a PUBLISH to this client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicForm {
    /// In full, without alias.
    Full,
    /// In full, and the alias is set.
    Introduce(u16),
    /// By alias only.
    Alias(u16),
}

impl OutboundAliases {
    /// Aliases that were set before, from 1 on.
    #[must_use]
    pub fn set_before(topics: Vec<Box<str>>) -> Self {
        Self { topics }
    }

    /// The topics that have aliases, from 1 on.
    #[must_use]
    pub fn topics(&self) -> &[Box<str>] {
        &self.topics
    }

    /// How to send `topic`, given that the client takes aliases up to `maximum`.
    pub fn form(&mut self, topic: &str, maximum: u16) -> TopicForm {
        if let Some(place) = self.topics.iter().position(|known| **known == *topic) {
            return TopicForm::Alias(alias_of(place));
        }
        if self.topics.len() >= usize::from(maximum) {
            return TopicForm::Full;
        }
        self.topics.push(topic.into());
        TopicForm::Introduce(alias_of(self.topics.len() - 1))
    }
}

fn alias_of(place: usize) -> u16 {
    u16::try_from(place + 1).expect("at most Topic Alias Maximum topics are kept")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_topics_get_the_aliases() {
        let mut aliases = OutboundAliases::default();
        assert_eq!(aliases.form("a", 1), TopicForm::Introduce(1));
        assert_eq!(aliases.form("b", 1), TopicForm::Full);
        assert_eq!(aliases.form("a", 1), TopicForm::Alias(1));
    }

    #[test]
    fn an_alias_can_be_given_another_topic() {
        let mut aliases = InboundAliases::default();
        assert_eq!(aliases.get(2), None);
        aliases.set(2, "a");
        aliases.set(2, "b");
        assert_eq!(aliases.get(2), Some("b"));
        assert_eq!(aliases.get(1), None);
    }
}
