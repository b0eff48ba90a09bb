//! Calm, and what must be then: everything owed arrives, streams hold what was promised, nothing is left of who leaves.

use super::{
    Actor, CALM_SECONDS, QOS, ROUNDS_MAX, Server, TIMEOUTS_A_SECOND_MAX, TOPICS, World, ring,
};
use crate::simulation::world::Broken;
use gateway::proto::mqtt::QoS;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

impl World {
    /// Everything that hindered is over: what is owed must arrive.
    pub(crate) fn calm_down(&mut self) -> Result<(), Broken> {
        self.note("calm".to_owned());
        self.thaw();
        self.cut_off = None;
        self.servers.iter_mut().for_each(Server::heal);
        for index in 0..self.actors.len() {
            if let (Some(socket), true) = (self.actors[index].socket, self.actors[index].stalled) {
                self.actors[index].stalled = false;
                let gateway = self.actors[index].gateway;
                self.node(gateway).stall(socket, false);
            }
        }
        self.finish_change()?;
        for _ in 0..CALM_SECONDS {
            self.calm_second()?;
            if self.is_settled() {
                return self.check_streams();
            }
        }
        let missing: Vec<_> =
            self.missing().into_iter().map(|id| self.ledger.describe(id)).collect();
        let busy = self.actors.iter().filter(|actor| !is_done(actor));
        let busy: Vec<_> = busy.map(|actor| format!("{:?}", actor.client)).collect();
        Err(self.broken(&format!("missing: {missing:#?}\nbusy: {busy:#?}")))
    }

    /// From now on everything holds again, for clients that come back and subscribe to everything anew.
    pub(in crate::simulation::jetstream) fn forgive(&mut self) -> Result<(), Broken> {
        for actor in 0..self.actors.len() {
            self.cut(actor);
            // Of what it has received nobody may know: with that packet id it would take nothing more.
            let client = &mut self.actors[actor].client;
            client.starts_over = !client.is_idle();
        }
        self.calm_second()?;
        for actor in &mut self.actors {
            if !actor.client.profile.subscriptions.is_empty() {
                actor.client.subscribe();
            }
        }
        // All that was on its way has come, or does not.
        for _ in 0..15 {
            self.calm_second()?;
        }
        self.forgiven = self.ledger.count() as u64;
        self.ledger.lose(0, &TOPICS);
        self.forgives = false;
        Ok(())
    }

    /// Each publisher publishes to each topic.
    pub(in crate::simulation::jetstream) fn publish_everything(&mut self) {
        for actor in 0..self.actors.len() {
            if self.actors[actor].publishes {
                for (number, topic) in TOPICS.into_iter().enumerate() {
                    self.publish(actor, topic, QOS[1 + number % 2]);
                }
            }
        }
    }

    /// A second in which nothing goes wrong.
    pub(crate) fn calm_second(&mut self) -> Result<(), Broken> {
        self.tell_all();
        let before: Vec<u64> =
            (0..self.gateways.len()).map(|n| self.node(n).timeout_count).collect();
        for _ in 0..10 {
            self.settle()?;
            self.advance(Duration::from_millis(100));
        }
        for (gateway, before) in before.into_iter().enumerate() {
            let count = self.node(gateway).timeout_count - before;
            if count > TIMEOUTS_A_SECOND_MAX {
                let what = format!("gateway {gateway} was called {count} times in a second");
                return Err(self.broken(&what));
            }
        }
        Ok(())
    }

    /// Everyone is connected and answers, disks and servers do what they are asked, until nothing
    /// moves.
    pub(crate) fn settle(&mut self) -> Result<(), Broken> {
        for _ in 0..ROUNDS_MAX {
            let mut moved = false;
            for index in 0..self.actors.len() {
                if self.actors[index].socket.is_none() {
                    self.connect(index);
                    moved = true;
                }
                while self.actors[index].client.has_answers() {
                    self.actors[index].client.answer_one();
                    moved = true;
                }
            }
            self.exchange()?;
            moved |= self.pump();
            for gateway in 0..self.gateways.len() {
                while self.node(gateway).perform_one() {
                    moved = true;
                }
            }
            self.exchange()?;
            if !moved {
                return Ok(());
            }
        }
        Err(self.broken("it never comes to rest"))
    }

    fn is_settled(&self) -> bool {
        let nodes = self.gateways.iter().flatten();
        let mut links = nodes.filter_map(|node| node.shard(0).jetstream());
        let is_done = |actor: &Actor| {
            is_done(actor)
                || self.forgives && actor.client.is_ready() && actor.client.owes_nothing()
        };
        self.actors.iter().all(is_done)
            && links.all(|links| links.is_idle())
            && self.missing().is_empty()
    }

    /// Acknowledged messages that did not arrive, and that no server has lost.
    fn missing(&self) -> Vec<u64> {
        if self.forgives {
            return Vec::new();
        }
        let missing = self.ledger.missing().into_iter();
        missing.filter(|message| !self.lost.contains(message)).collect()
    }

    /// The streams hold what was acknowledged, once and in order.
    fn check_streams(&mut self) -> Result<(), Broken> {
        let mut newest = BTreeMap::new();
        let (mut seen, mut names) = (BTreeSet::new(), BTreeSet::new());
        let stored = self.servers.iter().enumerate().flat_map(|(server, one)| {
            one.model.messages.kept.iter().map(move |(at, message)| (server, *at, message.clone()))
        });
        let mut stored: Vec<_> = stored.collect();
        stored.sort_by_key(|(server, at, message)| self.order(*server, *at, &message.subject));
        for (server, at, message) in stored {
            let Some(head) = message.payload.first_chunk() else { continue };
            if self.is_void(server, at, &message.subject) {
                continue;
            }
            let id = u64::from_le_bytes(*head);
            if self.forgives || id < self.forgiven {
                continue;
            }
            let qos = message.header("Mqtt-QoS").map(<[u8]>::to_vec);
            let name = message.header("Mqtt-Message-Id").or_else(|| message.header("Nats-Msg-Id"));
            if !name.is_none_or(|name| names.insert(name.to_vec())) {
                return Err(self.broken(&format!("message {id} is stored twice by one gateway")));
            }
            let is_first = seen.insert(id);
            if !is_first && qos.as_deref() == Some(b"2") {
                return Err(self.broken(&format!("message {id} is stored twice")));
            }
            let is_unordered = qos.as_deref() == Some(b"0") || self.ledger.is_abandoned(id);
            if self.has_sessions && is_unordered {
                continue;
            }
            // It may be stored once more than the server had it.
            if self.lost.contains(&id) {
                continue;
            }
            let publisher = message.header("Mqtt-Client-Id").map(<[u8]>::to_vec);
            let newest = newest.entry((publisher, message.subject, qos)).or_insert(id);
            if is_first && id < *newest {
                return Err(self.broken(&format!("message {id} is stored behind {newest}")));
            }
            *newest = id.max(*newest);
        }
        Ok(())
    }

    /// A new subscriber gets of each topic what was retained last.
    pub(crate) fn check_retained(&mut self) -> Result<(), Broken> {
        for gateway in 0..self.gateways.len() {
            for topic in ["r/1", "r/2"] {
                self.check_retained_topic(gateway, topic, topic)?;
            }
        }
        Ok(())
    }

    /// Nothing is wrong any more, and a new subscriber at some gateway gets what was retained last, or
    /// what is just being retained.
    pub(crate) fn heal_and_check_retained(&mut self) -> Result<(), Broken> {
        self.servers.iter_mut().for_each(Server::heal);
        let gateway = usize::try_from(self.random.below(self.gateways.len() as u64)).unwrap();
        let topic = *self.random.pick(&["r/1", "r/2"]);
        let filter = *self.random.pick(&[topic, "r/#", "+/+"]);
        self.check_retained_topic(gateway, topic, filter)
    }

    fn check_retained_topic(
        &mut self,
        gateway: usize,
        topic: &'static str,
        filter: &'static str,
    ) -> Result<(), Broken> {
        let mountpoint = if self.tenant.is_empty() { "" } else { &format!("{}.", self.tenant) };
        let subject = format!("mqtt.{mountpoint}{}", topic.replace('/', "."));
        let ids = |world: &Self, server: usize| {
            let kept = world.servers[server].model.messages.kept.iter();
            let of_topic = kept.filter(|(_, one)| one.subject == subject.as_bytes());
            let with_id = of_topic
                .map(|(at, one)| (*at, u64::from_le_bytes(*one.payload.first_chunk().unwrap())));
            let with_id = with_id.filter(|(at, _)| !world.is_void(server, *at, subject.as_bytes()));
            // Where the topic went, it is later.
            with_id
                .map(|(at, id)| (world.order(server, at, subject.as_bytes()), id))
                .collect::<Vec<_>>()
        };
        let all = |world: &Self| {
            (0..world.servers.len()).flat_map(|server| ids(world, server)).collect::<Vec<_>>()
        };
        let stored = all(self);
        let acknowledged = stored.iter().filter(|(_, id)| self.ledger.is_acknowledged(*id));
        let Some((last, id)) = acknowledged.max().copied() else { return Ok(()) };
        let name = format!("new-{}", self.actors.len());
        let actor = self.add(name, false, vec![(filter, QoS::AtLeastOnce)], false);
        self.actors[actor].gateway = gateway;
        self.actors[actor].client.profile.wants_retained = true;
        let mut got = Vec::new();
        let given_up = |world: &mut Self| {
            let shard = world.node(gateway).shard(0);
            let skipped = shard.jetstream().map_or(0, |one| one.counters.retained_skipped);
            shard.state().counters().retained_given_up + skipped
        };
        let given_up_before = given_up(self);
        for _ in 0..CALM_SECONDS {
            self.calm_second()?;
            // A feed that is behind may bring it as a message.
            let Actor { retained, delivered, .. } = &mut self.actors[actor];
            got.append(retained);
            got.append(delivered);
            let stored = all(self);
            // Of all those that the filter matches.
            got.retain(|id| stored.iter().any(|(at, other)| other == id && *at >= last));
            // A link that is dead is found to be too late for some: that is counted.
            if !got.is_empty() || given_up(self) > given_up_before {
                return Ok(());
            }
        }
        let retained = self.servers.iter().map(|server| server.model.retained.shown());
        let retained: Vec<_> = retained.collect();
        Err(self.broken(&format!(
            "{topic} at gateway {gateway}: nothing came, and {id} at {last:?} was retained: {retained:?}"
        )))
    }

    /// Nothing happens any more: links stay, and nobody asks anything without end.
    pub(crate) fn check_rest(&mut self) -> Result<(), Broken> {
        // A link that is dead is found to be; and so are gateways, and their sessions are looked after.
        let seconds = if self.has_sessions { 90 } else { 15 };
        // Who subscribed meanwhile looks a second time for what is retained, later.
        let is_any_dead = self.pipes.iter().any(|pipe| pipe.is_dead);
        let seconds = seconds + if is_any_dead { 15 } else { 0 };
        // Who was to look a second time for what is retained looks twice where that has moved.
        let seconds = seconds + if ring().takeovers().is_empty() { 0 } else { 15 };
        for _ in 0..seconds {
            self.calm_second()?;
        }
        let next_id = self.next_id;
        let reads: u64 = self.servers.iter().map(|server| server.model.read_count).sum();
        for _ in 0..15 {
            self.calm_second()?;
        }
        let reads_now: u64 = self.servers.iter().map(|server| server.model.read_count).sum();
        if self.next_id != next_id || reads_now > reads {
            let what = format!(
                "at rest {} links were made and {} questions asked",
                self.next_id - next_id,
                reads_now - reads
            );
            return Err(self.broken(&what));
        }
        Ok(())
    }

    /// Everyone ends its session: nothing may be left of them.
    pub(crate) fn leave(&mut self) -> Result<(), Broken> {
        for index in 0..self.actors.len() {
            self.cut(index);
            self.actors[index].client.profile.persistent = false;
            self.connect(index);
        }
        for _ in 0..3 {
            self.calm_second()?;
        }
        for index in 0..self.actors.len() {
            self.cut(index);
        }
        for _ in 0..5 {
            for gateway in 0..self.gateways.len() {
                while self.node(gateway).perform_one() {}
            }
            self.pump();
            self.advance(Duration::from_secs(1));
        }
        for gateway in 0..self.gateways.len() {
            let state = self.node(gateway).shard(0).state();
            let (sessions, filters) = (state.session_count(), state.filter_count());
            let counters = state.counters().clone();
            if (sessions, filters) != (0, 0) {
                let what = format!("{sessions} sessions and {filters} filters stay on {gateway}");
                return Err(self.broken(&what));
            }
            let unfetchable = if self.lost.is_empty() { counters.unfetchable } else { 0 };
            if unfetchable + counters.unreadable_sessions + counters.faults > 0 {
                return Err(self.broken(&format!("gateway {gateway} has counted {counters:?}")));
            }
        }
        let links: Vec<usize> = self.pipes.iter().map(|pipe| pipe.server).collect();
        // Where the stream has replicas, to marks of others, too.
        let has_marks = |server: &&usize| self.servers[**server].replicas > 1;
        let of_a_link = if self.has_sessions { 5 } else { 2 };
        let wanted = of_a_link * links.len() + links.iter().filter(has_marks).count();
        let links = links.len();
        let subscriptions: usize =
            self.servers.iter().map(|server| server.model.subscription_count()).sum();
        if subscriptions != wanted {
            let what = format!("{links} links have {subscriptions} subscriptions");
            return Err(self.broken(&what));
        }
        for server in &self.servers {
            let records = server.model.sessions.records();
            if !records.is_empty() {
                return Err(self.broken(&format!("records stay: {records:#?}")));
            }
        }
        Ok(())
    }
}

fn is_done(actor: &Actor) -> bool {
    actor.client.is_ready() && actor.client.is_idle()
}
