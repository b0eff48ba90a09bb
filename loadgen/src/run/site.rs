//! Sites: devices that lose power together and get it back together.

use std::ops::Range;

use super::{
    lane::Part,
    layout::{Layout, seeds},
    seconds_ns,
};
use crate::{profile, random::Random};

/// The sites that the devices of a lane belong to. A site may reach into other lanes, where the same
/// happens to it at the same time.
#[derive(Debug)]
pub(super) struct Sites {
    laws: Option<profile::Site>,
    sites: Vec<Site>,
    /// Number of the first site.
    first: u32,
    first_device: u32,
    /// Members before the first device, and up to the last.
    offset: u32,
    members: u32,
    /// A scenario has its hands on the power.
    held: bool,
    next_ns: u64,
}

#[derive(Debug)]
struct Site {
    powered: bool,
    change_ns: u64,
    random: Random,
}

impl Sites {
    /// The sites of a lane, all with power.
    pub(super) fn new(part: &Part, layout: &Layout, start_ns: u64) -> Self {
        let laws = part.profile.site.filter(|site| !site.every_s.is_never());
        let first_device = layout.global_device(0);
        let devices = laws.map_or(1, |laws| laws.devices);
        let first = first_device / devices;
        let last = (first_device + layout.devices.max(1) - 1) / devices;
        let sites = laws.map_or_else(Vec::new, |laws| {
            (first..=last)
                .map(|number| {
                    let seed = part.scenario.seed;
                    let mut random = Random::of(seed, seeds::SITE, u64::from(number));
                    let change_ns = start_ns + seconds_ns(laws.every_s.draw(&mut random));
                    Site { powered: true, change_ns, random }
                })
                .collect()
        });
        let offset = layout.devices_from();
        let members = offset + layout.devices;
        let mut all =
            Self { laws, sites, first, first_device, offset, members, held: false, next_ns: 0 };
        all.find_next();
        all
    }

    /// Whether member `index` has power, as far as its site is concerned.
    pub(super) fn has_power(&self, index: u32) -> bool {
        let Some(laws) = self.laws else { return true };
        let Some(device) = index.checked_sub(self.offset) else { return true };
        if index >= self.members {
            return true;
        }
        let number = (self.first_device + device) / laws.devices - self.first;
        self.sites.get(number as usize).is_none_or(|site| site.powered)
    }

    /// The next site whose power changes by `now_ns`, and whether it then has power.
    pub(super) fn take_change(&mut self, now_ns: u64) -> Option<(u32, bool)> {
        let laws = self.laws?;
        if self.held || self.next_ns > now_ns {
            return None;
        }
        let (number, site) =
            (0_u32..).zip(&mut self.sites).find(|(_, site)| site.change_ns <= now_ns)?;
        site.powered = !site.powered;
        let law = if site.powered { laws.every_s } else { laws.for_s };
        site.change_ns += seconds_ns(law.draw(&mut site.random)).max(1);
        let powered = site.powered;
        self.find_next();
        Some((number, powered))
    }

    /// When the power of a site changes next.
    pub(super) fn next_change_ns(&self) -> u64 {
        if self.held { u64::MAX } else { self.next_ns }
    }

    /// The members of a site.
    pub(super) fn members(&self, site: u32) -> Range<u32> {
        let devices = self.laws.map_or(1, |laws| laws.devices);
        let first = ((self.first + site) * devices).saturating_sub(self.first_device);
        let end = ((self.first + site + 1) * devices).saturating_sub(self.first_device);
        let at = |device: u32| (self.offset + device).min(self.members);
        at(first)..at(end)
    }

    /// From now on a scenario decides.
    pub(super) fn hold(&mut self) {
        self.held = true;
    }

    /// From now on the profile decides again; all have power.
    pub(super) fn release(&mut self, now_ns: u64) {
        self.held = false;
        let Some(laws) = self.laws else { return };
        for site in &mut self.sites {
            if !site.powered || site.change_ns <= now_ns {
                site.powered = true;
                site.change_ns = now_ns + seconds_ns(laws.every_s.draw(&mut site.random));
            }
        }
        self.find_next();
    }

    fn find_next(&mut self) {
        self.next_ns = self.sites.iter().map(|site| site.change_ns).min().unwrap_or(u64::MAX);
    }
}
