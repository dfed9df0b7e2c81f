//! CPU time and memory of a cluster's processes, by role, read from `/proc`.

use std::{collections::BTreeMap, fs, io, ops::Range, sync::Arc};

use clarion_emulator::clock;
use parking_lot::Mutex;

use super::process::Role;

/// A process whose CPU time and memory are read.
#[derive(Debug, Clone)]
pub struct Watched {
    /// Role of the process, by which its figures are added up.
    pub role: Role,
    /// Name of the process in logs and reports.
    pub name: String,
    /// Process id, for `/proc/<pid>`.
    pub pid: u32,
}

/// CPU time used so far, by process name, microseconds (in ticks of 10 ms on Linux).
pub type Cpu = BTreeMap<String, (Role, u64)>;

/// Reads the CPU time, user and system, of all processes.
///
/// # Errors
/// If a process has ended.
pub fn cpu(watched: &[Watched]) -> io::Result<Cpu> {
    watched.iter().map(|w| Ok((w.name.clone(), (w.role, cpu_us(w.pid)?)))).collect()
}

/// Returns the CPU time of a role between two readings, microseconds.
#[must_use]
pub fn cpu_used(role: Role, from: &Cpu, to: &Cpu) -> u64 {
    let of = |(name, (r, until)): (&String, &(Role, u64))| match from.get(name) {
        Some((_, since)) if *r == role => until.saturating_sub(*since),
        _ => 0,
    };
    to.iter().map(of).sum()
}

fn cpu_us(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let ticks = cpu_ticks(&stat)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/<pid>/stat"))?;
    Ok(ticks * 1_000_000 / rustix::param::clock_ticks_per_second())
}

/// Parses fields 14 and 15 (`proc_pid_stat(5)`), counted after the name in parentheses, which may
/// contain any characters.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// Returns the resident memory of a process, bytes: now, and at its highest so far.
///
/// # Errors
/// If the process has ended.
pub fn memory(pid: u32) -> io::Result<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name| kibibytes(&status, name).map(|k| k * 1_024);
    match (field("VmRSS:"), field("VmHWM:")) {
        (Some(now), Some(peak)) => Ok((now, peak)),
        // A zombie has no memory.
        _ => Err(io::Error::new(io::ErrorKind::NotFound, "the process has ended")),
    }
}

fn kibibytes(status: &str, name: &str) -> Option<u64> {
    status.lines().find_map(|l| l.strip_prefix(name))?.split_ascii_whitespace().next()?.parse().ok()
}

/// Memory over time: some 16 bytes per sample, ten samples per second and process.
#[derive(Debug, Clone, Default)]
pub struct MemoryLog {
    samples: Arc<Mutex<BTreeMap<String, Series>>>,
}

/// Samples of one process, oldest first.
type Series = (Vec<Sample>, Role);

/// Time of the sample (nanoseconds of `CLOCK_MONOTONIC`) and value.
type Sample = (u64, u64);

impl MemoryLog {
    /// Takes one sample of each process.
    pub fn sample(&self, watched: &[Watched]) {
        let now_ns = clock::monotonic().0 * 1_000;
        let mut samples = self.samples.lock();
        for w in watched {
            // The watcher of processes reports one that has ended.
            if let Ok((now, _)) = memory(w.pid) {
                samples
                    .entry(w.name.clone())
                    .or_insert_with(|| (Vec::new(), w.role))
                    .0
                    .push((now_ns, now));
            }
        }
    }

    /// Returns the largest growth of one process of a role after `since_ns` over its own highest
    /// memory during `steady`, bytes; `None` without samples of both.
    #[must_use]
    pub fn growth(&self, role: Role, steady: &Range<u64>, since_ns: u64) -> Option<u64> {
        let samples = self.samples.lock();
        let growth = |samples: &[Sample]| {
            let steady =
                samples.iter().filter(|(t, _)| steady.contains(t)).map(|(_, rss)| *rss).max()?;
            let after =
                samples.iter().filter(|(t, _)| *t >= since_ns).map(|(_, rss)| *rss).max()?;
            Some(after.saturating_sub(steady))
        };
        samples.values().filter(|(_, r)| *r == role).filter_map(|(s, _)| growth(s)).max()
    }

    /// Returns the highest sample of a role's processes since a time, bytes; 0 without one.
    #[must_use]
    pub fn most(&self, role: Role, since_ns: u64) -> u64 {
        let samples = self.samples.lock();
        let of_role = samples.values().filter(|(_, r)| *r == role).flat_map(|(series, _)| series);
        of_role.filter(|(t, _)| *t >= since_ns).map(|(_, rss)| *rss).max().unwrap_or(0)
    }

    /// Returns the highest sample of each process, by name.
    #[must_use]
    pub fn peaks(&self) -> BTreeMap<String, u64> {
        let samples = self.samples.lock();
        samples
            .iter()
            .map(|(name, (s, _))| (name.clone(), s.iter().map(|(_, rss)| *rss).max().unwrap_or(0)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_behind_any_name() {
        let stat = "42 (a b) c) S 1 2 3 4 5 6 7 8 9 10 700 80 0 0 20 0 9";
        assert_eq!(cpu_ticks(stat), Some(780));
        assert_eq!(cpu_ticks("nonsense"), None);
    }

    #[test]
    fn this_process_can_be_read() {
        let me = [Watched { role: Role::Shard, name: "me".to_owned(), pid: std::process::id() }];
        let (now, peak) = memory(me[0].pid).unwrap();
        assert!(now > 100_000 && peak >= now / 2, "{now} {peak}");
        assert!(cpu(&me).unwrap().contains_key("me"));
    }

    #[test]
    fn time_is_summed_by_role() {
        let from: Cpu =
            [("a".to_owned(), (Role::Shard, 10)), ("g".to_owned(), (Role::Gateway, 5))].into();
        let to: Cpu =
            [("a".to_owned(), (Role::Shard, 35)), ("g".to_owned(), (Role::Gateway, 9))].into();
        assert_eq!(
            (cpu_used(Role::Shard, &from, &to), cpu_used(Role::Gateway, &from, &to)),
            (25, 4)
        );
    }

    #[test]
    fn growth_is_over_the_steady_state_of_the_same_process() {
        let log = MemoryLog::default();
        let series = |values: &[Sample]| (values.to_vec(), Role::Shard);
        *log.samples.lock() = [
            ("shard-0".to_owned(), series(&[(1, 999), (10, 100), (20, 120), (30, 130), (40, 110)])),
            ("shard-1".to_owned(), series(&[(10, 500), (30, 505)])),
            ("gateway".to_owned(), (vec![(10, 1), (30, 9_000)], Role::Gateway)),
        ]
        .into();
        assert_eq!(log.growth(Role::Shard, &(5..25), 25), Some(10));
        assert_eq!(log.growth(Role::Coordinator, &(5..25), 25), None);
        assert_eq!(log.peaks()["gateway"], 9_000);
        assert_eq!((log.most(Role::Shard, 25), log.most(Role::Coordinator, 0)), (505, 0));
    }
}
