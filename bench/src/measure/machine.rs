//! What a figure was measured on: without it, it says nothing.

use serde::Serialize;

/// Clock ticks of all processors together since the machine started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ticks {
    all: u64,
    stolen: u64,
}

impl Ticks {
    /// Up to now; nothing where the kernel doesn't say.
    pub fn now() -> Ticks {
        Ticks::read(&std::fs::read_to_string("/proc/stat").unwrap_or_default())
    }

    /// The first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal (proc(5)); what follows is
    /// counted among these already.
    fn read(stat: &str) -> Ticks {
        const KINDS: usize = 8;
        let first = stat
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("cpu "))
            .unwrap_or_default();
        let ticks: Vec<u64> = first
            .split_whitespace()
            .take(KINDS)
            .filter_map(|count| count.parse().ok())
            .collect();
        Ticks {
            all: ticks.iter().sum(),
            stolen: ticks.get(KINDS - 1).copied().unwrap_or(0),
        }
    }

    /// The share of the processors, in percent, that the machine's host gave to others since then although this machine
    /// had work for them.
    #[allow(
        clippy::cast_precision_loss,
        reason = "ticks of a hundredth of a second"
    )]
    pub fn stolen_since(self, earlier: Ticks) -> f64 {
        let all = self.all.saturating_sub(earlier.all);
        if all == 0 {
            0.0
        } else {
            100.0 * self.stolen.saturating_sub(earlier.stolen) as f64 / all as f64
        }
    }
}

/// The machine, and how busy it was when the measurement began.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Processors that this process may use.
    pub processors: usize,
    /// Their model, as the kernel names it.
    pub model: String,
    /// The kernel's release.
    pub kernel: String,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Runnable tasks, mean over a minute, before the load began. Above 0.5 others were at work.
    pub load_average: f64,
}

impl Machine {
    /// Looks at this one. What the kernel doesn't say is empty or 0.
    pub fn here() -> Machine {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text
                .lines()
                .find(|line| line.starts_with(name))
                .unwrap_or_default();
            line.split_once(':')
                .map(|(_, value)| value.trim().to_owned())
                .unwrap_or_default()
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let memory_kib: u64 = memory
            .split(' ')
            .next()
            .and_then(|kib| kib.parse().ok())
            .unwrap_or(0);
        Machine {
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            model: field(&read("/proc/cpuinfo"), "model name"),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            memory_mib: memory_kib / 1_024,
            load_average: read("/proc/loadavg")
                .split(' ')
                .next()
                .and_then(|load| load.parse().ok())
                .unwrap_or(0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stolen_time_is_a_share_of_all_time_and_guests_count_once() {
        let before = Ticks::read("cpu  100 0 50 800 30 0 10 10 5 5\ncpu0 1 2 3\n");
        let after = Ticks::read("cpu  150 0 70 820 30 0 10 20 90 5\n");
        assert_eq!((before.all, before.stolen), (1_000, 10));
        assert!((after.stolen_since(before) - 10.0).abs() < 1e-9);
        assert!(Ticks::read("").stolen_since(Ticks::read("intr 5")).abs() < 1e-9);
    }
}
