//! What goes wrong with gateways, links and servers.

use super::{LINGERING_MAX, Lingering, Pipe, Server, World};
use std::time::Duration;

impl World {
    /// The power of a gateway goes, and comes back.
    pub(crate) fn crash(&mut self, gateway: usize) {
        self.note(format!("gateway {gateway} crashes"));
        if self.is_frozen(gateway) {
            let (_, duration) = self.frozen.take().expect("it is frozen");
            self.node(gateway).stand_still(duration);
            self.vanished.clear();
        }
        // It is not back within the same moment.
        self.advance(Duration::from_millis(1));
        let node = self.gateways[gateway].take().expect("it is only gone while it crashes");
        let mut node = node.crash();
        node.holds_io = true;
        self.gateways[gateway] = Some(node);
        self.tell_first(gateway);
        for actor in 0..self.actors.len() {
            if self.actors[actor].gateway == gateway {
                self.actors[actor].socket = None;
                self.went_offline(actor);
            }
        }
        let Self { pipes, servers, .. } = self;
        pipes.retain(|pipe| {
            let is_other = pipe.gateway != gateway;
            if !is_other {
                servers[pipe.server].model.close(pipe.id);
            }
            is_other
        });
    }

    pub(super) fn hurt_link(&mut self) {
        if self.pipes.is_empty() {
            return;
        }
        let pipe = usize::try_from(self.random.below(self.pipes.len() as u64)).unwrap();
        if self.random.below(4) == 0 {
            self.note(format!("link {} is dead", self.pipes[pipe].id));
            self.pipes[pipe].is_dead = true;
            return;
        }
        // Some of what was on its way gets there.
        for to_server in [true, false] {
            if self.random.below(2) == 0 {
                self.move_bytes(pipe, to_server);
            }
        }
        if pipe < self.pipes.len() {
            self.cut_link(pipe);
        }
    }

    /// Both ends of a link hear that it is gone.
    pub(crate) fn cut_link(&mut self, pipe: usize) {
        let Pipe { gateway, server, id, .. } = self.pipes[pipe];
        if self.is_frozen(gateway) {
            // It finds out when it goes on.
            self.servers[server].model.close(id);
            self.pipes[pipe].is_dead = true;
            return;
        }
        let pipe = self.pipes.remove(pipe);
        let Pipe { gateway, socket, server, id, .. } = pipe;
        self.note(format!("link {id} of gateway {gateway} to server {server} is cut"));
        self.close_at_server(pipe);
        self.node(gateway).drop_connection(socket);
    }

    /// A link is cut while the server has received what was sent on it, and not read it: that it does after so long.
    pub(in crate::simulation::jetstream) fn linger(&mut self, pipe: usize, wait: Duration) {
        let Pipe { gateway, socket, server, id, to_server, .. } = self.pipes.remove(pipe);
        let until = self.now().after(wait);
        self.lingering.push(Lingering { server, id, bytes: to_server, until });
        self.node(gateway).drop_connection(socket);
    }

    /// The server's end of a link closes, at once or when it has read what it had received.
    pub(super) fn close_at_server(&mut self, pipe: Pipe) {
        let Pipe { server, id, to_server, .. } = pipe;
        if self.servers[server].is_up && !to_server.is_empty() && self.random.below(2) == 0 {
            let until = self.now().after(LINGERING_MAX);
            self.lingering.push(Lingering { server, id, bytes: to_server, until });
        } else {
            self.servers[server].model.close(id);
        }
    }

    pub(super) fn hurt_server(&mut self, loses_tails: bool) {
        let number = self.some_server();
        let what = self.random.below(9);
        let heals = self.random.below(2) == 0;
        let server = &mut self.servers[number];
        match what {
            _ if heals => server.heal(),
            0 => server.is_unreachable = !server.is_unreachable,
            1 | 2 => server.model.has_streams = !server.model.has_streams,
            3 | 4 => {
                let count = server.model.messages.kept.len() as u64;
                let stream = &mut server.model.messages;
                stream.count_max = if stream.count_max == u64::MAX { count } else { u64::MAX };
            }
            5 => server.model.messages.sync(),
            6 => {
                server.model.retained.sync();
                server.model.sessions.sync();
            }
            _ if server.is_up => self.stop_server(number, loses_tails),
            _ => {}
        }
        let Server { model, is_up, is_unreachable, .. } = &self.servers[number];
        let (has_streams, count_max) = (model.has_streams, model.messages.count_max);
        self.note(format!(
            "server {number}: up {is_up}, unreachable {is_unreachable}, streams {has_streams}, \
             {count_max} messages at most"
        ));
    }

    pub(super) fn some_server(&mut self) -> usize {
        let count = self.servers.len() as u64;
        usize::try_from(self.random.below(count)).unwrap()
    }

    /// The leader of a stream with replicas is elected anew, or its followers lag.
    pub(super) fn hurt_replicas(&mut self) {
        let number = self.some_server();
        let lag = *self.random.pick(&[0, 1, 4, 20]);
        let elects = self.random.below(2) == 0;
        let Server { model, replicas, .. } = &mut self.servers[number];
        if *replicas == 1 {
            return;
        }
        if elects {
            model.elect();
            self.note(format!("server {number} is elected anew"));
        } else {
            model.lag = lag;
            self.note(format!("followers of server {number} lag by {lag}"));
        }
    }

    /// A server ends; its connections are closed.
    pub(crate) fn stop_server(&mut self, number: usize, loses_tail: bool) {
        self.servers[number].is_up = false;
        if loses_tail {
            // It is not back within the same moment.
            self.advance(Duration::from_millis(1));
        }
        for message in self.servers[number].model.restart(loses_tail) {
            self.lost.insert(message);
        }
        if loses_tail {
            let last = self.servers[number].model.messages.last;
            self.note(format!("server {number} has lost what was behind {last}"));
        }
        self.lingering.retain(|one| one.server != number);
        for pipe in (0..self.pipes.len()).rev() {
            if self.pipes[pipe].server == number {
                self.cut_link(pipe);
            }
        }
    }
}
