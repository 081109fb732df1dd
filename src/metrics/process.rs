//! The process as the kernel sees it, under the names that every Prometheus client uses.
//!
//! Read from /proc/self, which the unit's hardening leaves; what cannot be read is left out.

use std::fs;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};

/// What was found.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Process {
    pub cpu: Option<Duration>,
    /// In bytes.
    pub resident: Option<u64>,
    pub virtual_memory: Option<u64>,
    pub open_fds: Option<u64>,
    pub max_fds: Option<u64>,
}

impl Process {
    pub(super) fn read() -> Self {
        let (virtual_memory, resident) = memory().unzip();
        Process {
            cpu: clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).ok().map(Duration::from),
            resident,
            virtual_memory,
            open_fds: open_fds(),
            max_fds: getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft),
        }
    }
}

/// All and what of it is resident, in bytes (proc_pid_statm(5)).
fn memory() -> Option<(u64, u64)> {
    let page = u64::try_from(sysconf(SysconfVar::PAGE_SIZE).ok()??).ok()?;
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = text.split(' ').map(str::parse::<u64>);
    Some((pages.next()?.ok()? * page, pages.next()?.ok()? * page))
}

fn open_fds() -> Option<u64> {
    // Since Linux 6.2 the folder's size is their number; to list 20,000 would take milliseconds of
    // the thread that accepts connections.
    match fs::metadata("/proc/self/fd").ok()?.len() {
        // The folder itself is open while it is listed.
        0 => Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as u64),
        count => Some(count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_found_here() {
        let process = Process::read();
        assert!(process.cpu.unwrap() > Duration::ZERO);
        assert!(process.resident.unwrap() > 1 << 20 && process.virtual_memory > process.resident);
        assert!(process.open_fds.unwrap() >= 3 && process.max_fds > process.open_fds);
    }
}
