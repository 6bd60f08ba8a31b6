//! Leases, in memory: they end with this process (PROTOCOL H4: taking the lock ends every earlier lease at once), so no
//! disk is asked to renew one, and a heartbeat waits for nothing that the writer does.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use robata_core::{
    ExecutorName, Format, IncarnationId, Timestamp,
    executor::RealmId,
    store::{LEASE, Mark, MasterRecord, Register, WorkerExecutor},
};

/// Ended leases whose end is remembered; of older ones the store's opening stands for it.
const REMEMBERED: usize = 10_000;

/// All leases that this process has given.
#[derive(Debug)]
pub(crate) struct Leases {
    live: HashMap<IncarnationId, Lease>,
    ended: BTreeMap<IncarnationId, Duration>,
    opened: Duration,
    last_mark: Option<Duration>,
    /// Marks came without a gap since then.
    unbroken_since: Duration,
    /// No lease is judged before.
    judge_from: Duration,
    /// What masters announced with their last marks (PROTOCOL V1).
    masters: HashMap<IncarnationId, (Duration, MasterRecord)>,
}

#[derive(Debug)]
struct Lease {
    until: Duration,
    seen_at: Timestamp,
    host: String,
    executors: BTreeMap<ExecutorName, WorkerExecutor>,
    draining: bool,
    format: Format,
}

impl Leases {
    pub(crate) fn new(now: Duration) -> Self {
        Self {
            live: HashMap::new(),
            ended: BTreeMap::new(),
            opened: now,
            last_mark: None,
            unbroken_since: now,
            judge_from: now + LEASE,
            masters: HashMap::new(),
        }
    }

    /// Begins a lease, or renews it with other executors.
    pub(crate) fn begin(&mut self, request: &Register, boot: Duration, wall: Timestamp) {
        let draining = self.is_draining(request.incarnation);
        self.live.insert(
            request.incarnation,
            Lease {
                until: boot + LEASE,
                seen_at: wall,
                host: request.host.clone(),
                executors: request.executors.clone(),
                draining,
                format: request.format,
            },
        );
    }

    /// Renews; false where the lease has ended.
    pub(crate) fn renew(&mut self, id: IncarnationId, boot: Duration, wall: Timestamp) -> bool {
        let Some(lease) = self.live.get_mut(&id) else {
            return false;
        };
        lease.until = lease.until.max(boot + LEASE);
        lease.seen_at = lease.seen_at.max(wall);
        true
    }

    pub(crate) fn is_live(&self, id: IncarnationId) -> bool {
        self.live.contains_key(&id)
    }

    pub(crate) fn has_ended(&self, id: IncarnationId) -> bool {
        self.ended.contains_key(&id)
    }

    /// The host's name of a live worker.
    pub(crate) fn host(&self, id: IncarnationId) -> Option<&str> {
        Some(self.live.get(&id)?.host.as_str())
    }

    /// The last heartbeat of a live worker.
    pub(crate) fn seen_at(&self, id: IncarnationId) -> Option<Timestamp> {
        Some(self.live.get(&id)?.seen_at)
    }

    /// Every live incarnation.
    pub(crate) fn live(&self) -> BTreeSet<IncarnationId> {
        self.live.keys().copied().collect()
    }

    /// Every incarnation whose lease ended since the folder was opened, the last ones first to be remembered.
    pub(crate) fn ended(&self) -> Vec<IncarnationId> {
        self.ended.keys().copied().collect()
    }

    /// Executors for which a live worker takes jobs.
    pub(crate) fn executors(&self) -> BTreeSet<ExecutorName> {
        self.live
            .values()
            .filter(|lease| !lease.draining)
            .flat_map(|lease| lease.executors.keys().cloned())
            .collect()
    }

    /// Whether a live worker was asked to drain.
    pub(crate) fn is_draining(&self, id: IncarnationId) -> bool {
        self.live.get(&id).is_some_and(|lease| lease.draining)
    }

    /// Notes that a worker was asked to drain.
    pub(crate) fn drain(&mut self, id: IncarnationId) {
        if let Some(lease) = self.live.get_mut(&id) {
            lease.draining = true;
        }
    }

    /// A live worker that reaches this realm, for people: its host and when it was last seen.
    pub(crate) fn reaching(&self, realm: &RealmId) -> Option<(IncarnationId, &str, Timestamp)> {
        self.live
            .iter()
            .find(|(_, lease)| lease.executors.values().any(|own| own.realm.as_ref() == Some(realm)))
            .map(|(id, lease)| (*id, lease.host.as_str(), lease.seen_at))
    }

    /// Ends a lease for ever; false where it had ended.
    pub(crate) fn end(&mut self, id: IncarnationId, boot: Duration) -> bool {
        if self.live.remove(&id).is_none() {
            return false;
        }
        self.ended.insert(id, boot);
        while self.ended.len() > REMEMBERED {
            self.ended.pop_first();
        }
        true
    }

    /// Notes that a mark was written; a gap moves the judgement by a whole lease (PROTOCOL H4).
    pub(crate) fn mark(&mut self, boot: Duration) {
        if self.gap(boot) {
            self.judge_from = boot + LEASE;
            self.unbroken_since = boot;
        }
        self.last_mark = Some(boot);
    }

    fn gap(&self, boot: Duration) -> bool {
        self.last_mark.is_none_or(|last| boot.saturating_sub(last) > LEASE / 2)
    }

    /// Whether marks came without a gap for a whole lease.
    pub(crate) fn may_judge(&self, boot: Duration) -> bool {
        boot >= self.judge_from && !self.gap(boot)
    }

    /// Notes what a master announces with its mark.
    pub(crate) fn announce(&mut self, mark: Mark, boot: Duration, marked_at: Timestamp) {
        self.masters.retain(|_, (at, _)| boot.saturating_sub(*at) <= LEASE);
        self.masters
            .insert(mark.master, (boot, MasterRecord { mark, marked_at }));
    }

    /// Masters whose mark is fresh.
    pub(crate) fn masters(&self, boot: Duration) -> Vec<MasterRecord> {
        let fresh = self
            .masters
            .values()
            .filter(|(at, _)| boot.saturating_sub(*at) <= LEASE);
        fresh.map(|(_, record)| *record).collect()
    }

    /// What live workers and masters announce.
    pub(crate) fn announced(&self, boot: Duration) -> Vec<Format> {
        let workers = self.live.values().map(|lease| lease.format);
        let masters = self.masters(boot).into_iter().map(|master| master.mark.format);
        workers.chain(masters).collect()
    }

    /// Ends what has expired; answers which. Asked before the present mark is noted, it judges nobody after a gap.
    pub(crate) fn judge(&mut self, boot: Duration) -> Vec<IncarnationId> {
        if !self.may_judge(boot) {
            return Vec::new();
        }
        let expired: Vec<_> = self
            .live
            .iter()
            .filter(|(_, lease)| lease.until <= boot)
            .map(|(id, _)| *id)
            .collect();
        for id in &expired {
            self.end(*id, boot);
        }
        expired
    }

    /// How long ago a lease ended, counted only while marks were unbroken (PROTOCOL H6): not at all while they are broken.
    pub(crate) fn ended_for(&self, id: IncarnationId, boot: Duration) -> Duration {
        if self.gap(boot) {
            return Duration::ZERO;
        }
        let ended = self.ended.get(&id).copied().unwrap_or(self.opened);
        boot.saturating_sub(ended.max(self.unbroken_since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn one() -> (Leases, IncarnationId) {
        let mut leases = Leases::new(Duration::ZERO);
        let request = Register {
            incarnation: IncarnationId::new(),
            host: "h".into(),
            pid: 1,
            executors: BTreeMap::new(),
            format: Format::OWN,
        };
        leases.begin(&request, Duration::ZERO, Timestamp::default());
        (leases, request.incarnation)
    }

    #[test]
    fn a_gap_in_the_marks_moves_judgement_by_a_whole_lease() {
        let (mut leases, id) = one();
        for at in (2..=10).step_by(2) {
            leases.mark(secs(at));
        }
        leases.mark(secs(60));
        assert!(leases.judge(secs(60)).is_empty());
        for at in (62..=70).step_by(2) {
            leases.mark(secs(at));
            assert!(leases.judge(secs(at)).is_empty());
        }
        leases.mark(secs(72));
        assert_eq!(leases.judge(secs(72)), [id]);
    }

    #[test]
    fn while_no_marks_come_nothing_counts_towards_lost() {
        let (mut leases, id) = one();
        leases.end(id, secs(1));
        leases.mark(secs(2));
        leases.mark(secs(4));
        assert_eq!(leases.ended_for(id, secs(5)), secs(3));
        assert_eq!(leases.ended_for(id, secs(3_600)), Duration::ZERO);
    }

    #[test]
    fn a_lease_that_ended_is_not_renewed() {
        let (mut leases, id) = one();
        leases.end(id, secs(1));
        assert!(!leases.renew(id, secs(2), Timestamp::default()));
        assert!(!leases.is_live(id));
    }
}
