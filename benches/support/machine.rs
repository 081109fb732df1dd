//! What the machine gives and says: processors, descriptors, the CPU time and the memory of a process.
//!
//! It does not start or end processes; see `server`.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use super::BenchError;

/// Which processor the server gets and which the load.
#[derive(Clone, Copy)]
pub struct Processors {
    pub server: usize,
    pub load: usize,
}

impl Processors {
    /// The first two that this process may use; the same one twice where there is no other.
    pub fn choose() -> Result<Self, BenchError> {
        let allowed = sched_getaffinity(Pid::this()).map_err(BenchError::system("reading the CPU affinity"))?;
        let mut usable = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu) == Ok(true));
        let server = usable.next().unwrap_or(0);
        Ok(Processors { server, load: usable.next().unwrap_or(server) })
    }

    pub fn are_shared(self) -> bool {
        self.server == self.load
    }
}

/// Keeps this thread, and what it starts, on one processor.
pub fn pin_to(cpu: usize) -> Result<(), BenchError> {
    let mut set = CpuSet::new();
    set.set(cpu)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set))
        .map_err(BenchError::system("pinning to a CPU"))
}

/// Raises the soft limit of descriptors to the hard one and returns it.
pub fn raise_descriptor_limit() -> Result<u64, BenchError> {
    let fail = BenchError::system("raising the limit of file descriptors");
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(fail)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(fail)?;
    Ok(hard)
}

/// Becomes `command`, pinned to `cpu`, and killed by the kernel when the bench itself dies.
///
/// A step between fork and exec that is a program of its own needs no `pre_exec`, hence no `unsafe`; and the server
/// is pinned before its first instruction, when it counts the processors that it may use.
pub fn launch(cpu: usize, mut command: Command) -> BenchError {
    if let Err(error) = pin_to(cpu) {
        return error;
    }
    if let Err(error) = prctl::set_pdeathsig(Signal::SIGKILL) {
        return BenchError::system("asking to be killed with the bench")(error);
    }
    let error = command.exec();
    BenchError::Io { doing: format!("starting {}", command.get_program().display()), error }
}

/// CPU time, user and system, of all threads of a process so far, those that have ended included. In nanoseconds,
/// where /proc/PID/stat counts in hundredths of a second.
pub fn cpu_time(pid: u32) -> Result<Duration, BenchError> {
    let fail = BenchError::system("reading the server's CPU clock (has it ended?)");
    let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(pid as i32)).map_err(fail)?;
    Ok(clock_gettime(clock).map_err(fail)?.into())
}

/// How long the threads of a process that live now have been ready to run while something else had the processor.
/// Zero where the kernel does not count it.
pub fn waiting_time(pid: u32) -> Duration {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Duration::ZERO };
    let waited = |text: String| text.split_whitespace().nth(1)?.parse().ok();
    threads
        .filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("schedstat")).ok())
        .filter_map(waited)
        .map(Duration::from_nanos)
        .sum()
}

/// CPU time of this process so far.
pub fn own_cpu_time() -> Duration {
    ClockId::CLOCK_PROCESS_CPUTIME_ID.now().map(Duration::from).unwrap_or_default()
}

/// Resident memory of a process in bytes, exactly: /proc/PID/statm lags by up to some dozen pages a thread.
pub fn resident(pid: u32) -> Result<u64, BenchError> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).map_err(|error| BenchError::Io { doing: format!("reading {path}"), error })?;
    text.lines()
        .find_map(|line| line.strip_prefix("Rss:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok())
        .map(|kib| kib * 1024)
        .ok_or(BenchError::NoResident { path })
}

/// The most that has been resident since [`forget_peak`], in bytes (proc(5), VmHWM).
pub fn peak(pid: u32) -> Result<u64, BenchError> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).map_err(|error| BenchError::Io { doing: format!("reading {path}"), error })?;
    text.lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok())
        .map(|kib| kib * 1024)
        .ok_or(BenchError::NoResident { path })
}

/// Lets the peak begin again at what is resident now (proc(5), clear_refs).
pub fn forget_peak(pid: u32) -> Result<(), BenchError> {
    let path = format!("/proc/{pid}/clear_refs");
    fs::write(&path, "5").map_err(|error| BenchError::Io { doing: format!("writing {path}"), error })
}

/// Waits, at most `at_most`, until a process' memory has stayed the same for a second: ten readings in a row within
/// 0.1 % of each other. `meanwhile` serves the clients between two readings, for about 100 ms each time.
pub fn settled_resident(
    pid: u32,
    at_most: Duration,
    mut meanwhile: impl FnMut() -> Result<(), BenchError>,
) -> Result<Settled, BenchError> {
    let begin = Instant::now();
    let mut first = resident(pid)?;
    let mut same = 0;
    loop {
        meanwhile()?;
        let now = resident(pid)?;
        if now.abs_diff(first) * 1000 <= first {
            same += 1;
        } else {
            (first, same) = (now, 0);
        }
        if same >= 10 || begin.elapsed() > at_most {
            return Ok(Settled { bytes: now, settled: same >= 10 });
        }
    }
}

pub struct Settled {
    pub bytes: u64,
    /// False when the memory was still changing at the end of the time allowed.
    pub settled: bool,
}

/// One line that says on what a table was measured.
pub fn describe(processors: Processors) -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| Some(line.strip_prefix("model name")?.split_once(':')?.1.trim()));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{}, Linux {}; server pinned to CPU {}, load to CPU {}{}",
        model.unwrap_or("unknown processor"),
        kernel.trim(),
        processors.server,
        processors.load,
        if processors.are_shared() { " (only one: times and rates mean little)" } else { "" }
    )
}
