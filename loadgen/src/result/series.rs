//! What happened when: a point an interval.

use serde::{Deserialize, Serialize};

use crate::stats::Times;

/// Points a series has at most. With one more the interval doubles, so a run of a day still fits.
/// A point takes some 24 KiB, almost all of it its histogram: 85 MiB at most.
pub(crate) const POINTS_MAX: usize = 3_600;

/// What happened when, over all devices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Series {
    /// Length of an interval, seconds: 1, and twice as much whenever there would be more than
    /// 3,600 points.
    pub(crate) interval_s: u32,
    /// Point `n` covers the interval from `n * interval_s` on, from the start of the run.
    pub(crate) points: Vec<Point>,
}

/// What happened in one interval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Point {
    /// Messages sent.
    pub(crate) published: u64,
    /// Deliveries these messages should lead to.
    pub(crate) owed: u64,
    /// First deliveries.
    pub(crate) delivered: u64,
    /// PUBACK, or PUBREC at QoS 2, to messages sent.
    pub(crate) acknowledged: u64,
    /// Connections that became ready: CONNACK, and SUBACK where they subscribe.
    pub(crate) connects: u64,
    /// Connections ready at the end of the interval.
    pub(crate) connected: u64,
    /// Connections in the making at the end of the interval.
    pub(crate) connecting: u64,
    /// Connections refused, or ended before they should, up to the end of the interval.
    pub(crate) connections_lost: u64,
    /// PINGREQs sent.
    pub(crate) pings: u64,
    /// Bytes received from the broker, with TLS and WebSocket, without TCP/IP.
    pub(crate) received_bytes: u64,
    /// The generator's longest delay of a message that was due, microseconds.
    pub(crate) lag_max_us: u64,
    /// From when a message was due to its delivery, of what was delivered in the interval, in a
    /// histogram of two digits.
    pub(crate) latency: Times,
}

impl Default for Series {
    fn default() -> Self {
        Self { interval_s: 1, points: Vec::new() }
    }
}

impl Default for Point {
    fn default() -> Self {
        Self {
            published: 0,
            owed: 0,
            delivered: 0,
            acknowledged: 0,
            connects: 0,
            connected: 0,
            connecting: 0,
            connections_lost: 0,
            pings: 0,
            received_bytes: 0,
            lag_max_us: 0,
            latency: Times::coarse(),
        }
    }
}

/// A series in the making, from what the threads of a run report, each every second.
#[derive(Debug, Default)]
pub(crate) struct SeriesBuilder {
    series: Series,
    /// The latest second whose connections are known; an earlier one of the same interval, and
    /// what comes late from one, says nothing any more.
    latest: Option<u32>,
}

impl SeriesBuilder {
    /// What is known so far.
    pub(crate) fn series(&self) -> &Series {
        &self.series
    }

    /// The whole.
    pub(crate) fn finish(self) -> Series {
        self.series
    }

    /// Adds what a thread saw in a part of `second`, counted from the start of the run. Of the
    /// parts of a second only the one that `ends` it says how connections are.
    pub(crate) fn add(&mut self, second: u32, part: &Point, ends: bool) {
        let series = &mut self.series;
        while (second / series.interval_s) as usize >= POINTS_MAX {
            series.coarsen();
        }
        let interval_s = series.interval_s;
        let index = (second / interval_s) as usize;
        if series.points.len() <= index {
            series.points.resize_with(index + 1, Point::default);
        }
        let Some(point) = series.points.get_mut(index) else { return };
        point.add_counts(part);
        if ends && self.latest.is_none_or(|latest| second > latest) {
            self.latest = Some(second);
            point.set_gauges(part);
        } else if ends && (self.latest == Some(second) || (second + 1).is_multiple_of(interval_s)) {
            point.add_gauges(part);
        }
    }
}

impl Series {
    /// Adds another worker's series of the same run.
    pub(crate) fn merge(&mut self, mut other: Self) {
        while self.interval_s < other.interval_s {
            self.coarsen();
        }
        while other.interval_s < self.interval_s {
            other.coarsen();
        }
        let longest = self.points.len().max(other.points.len());
        self.extend_to(longest);
        other.extend_to(longest);
        for (point, part) in self.points.iter_mut().zip(&other.points) {
            point.add(part);
        }
    }

    /// A point for two; the last of an odd number stands alone.
    fn coarsen(&mut self) {
        self.interval_s *= 2;
        let points = std::mem::take(&mut self.points);
        let pairs = points.chunks(2).filter_map(|pair| {
            let (first, rest) = pair.split_first()?;
            let mut sum = first.clone();
            for later in rest {
                sum.follow(later);
            }
            Some(sum)
        });
        self.points = pairs.collect();
    }

    /// What was lost stays lost after the end.
    fn extend_to(&mut self, length: usize) {
        let connections_lost = self.points.last().map_or(0, |point| point.connections_lost);
        self.points.resize_with(length, || Point { connections_lost, ..Point::default() });
    }
}

impl Point {
    /// Adds what others saw in the same interval.
    fn add(&mut self, part: &Self) {
        self.add_counts(part);
        self.add_gauges(part);
    }

    /// Appends the interval after this one.
    fn follow(&mut self, later: &Self) {
        self.add_counts(later);
        self.set_gauges(later);
    }

    fn add_gauges(&mut self, part: &Self) {
        self.connected += part.connected;
        self.connecting += part.connecting;
        self.connections_lost += part.connections_lost;
    }

    fn set_gauges(&mut self, other: &Self) {
        self.connected = other.connected;
        self.connecting = other.connecting;
        self.connections_lost = other.connections_lost;
    }

    fn add_counts(&mut self, part: &Self) {
        self.published += part.published;
        self.owed += part.owed;
        self.delivered += part.delivered;
        self.acknowledged += part.acknowledged;
        self.connects += part.connects;
        self.pings += part.pings;
        self.received_bytes += part.received_bytes;
        self.lag_max_us = self.lag_max_us.max(part.lag_max_us);
        self.latency.merge(&part.latency);
    }
}
