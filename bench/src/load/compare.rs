//! Two systems side by side: the same shapes in alternating rounds, and how many times the first does what the second
//! does. Alternating, because a machine's disk and neighbours change from minute to minute.

use serde::Serialize;

use super::figures::Point;
use super::{LoadError, Say, Shape, Subject, Timing, round};

/// The first system's median divided by the second's.
#[derive(Debug, Clone, Serialize)]
pub struct Ratios {
    /// More is better.
    pub per_second: f64,
    /// Less is better, as in all below.
    pub p50: f64,
    /// The tail.
    pub p99: f64,
    /// Processor time of the servers per send.
    pub server_cpu: f64,
    /// Resident memory of the largest server.
    pub memory: f64,
    /// Disk of the largest server.
    pub disk: f64,
}

/// One shape on both systems.
#[derive(Debug, Clone, Serialize)]
pub struct Pair {
    /// The system that is measured.
    pub ours: Point,
    /// What it is compared with.
    pub theirs: Point,
    /// Ours by theirs.
    pub ratios: Ratios,
}

impl Pair {
    fn new(ours: Point, theirs: Point) -> Pair {
        let by = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
        let (a, b) = (&ours.median, &theirs.median);
        let ratios = Ratios {
            per_second: by(a.per_second, b.per_second),
            p50: by(a.p50_ms, b.p50_ms),
            p99: by(a.p99_ms, b.p99_ms),
            server_cpu: by(a.server_cpu_us, b.server_cpu_us),
            memory: by(a.memory_mib, b.memory_mib),
            disk: by(a.disk_mib, b.disk_mib),
        };
        Pair {
            ours,
            theirs,
            ratios,
        }
    }
}

/// Measures every shape on both, a round of one, then a round of the other.
///
/// # Errors
/// See [`LoadError`].
pub async fn side_by_side<A: Subject, B: Subject>(
    ours: &mut A,
    theirs: &mut B,
    shapes: &[Shape],
    timing: Timing,
    rounds: usize,
    say: Say<'_>,
) -> Result<Vec<Pair>, LoadError> {
    let mut pairs = Vec::with_capacity(shapes.len());
    for shape in shapes {
        let (mut of_ours, mut of_theirs) = (Vec::new(), Vec::new());
        for number in 1..=rounds {
            let one = round(ours, shape, timing, say).await?;
            say(&format!(
                "round {number} of {rounds}, {}: {one}",
                ours.name()
            ));
            of_ours.push(one);
            let one = round(theirs, shape, timing, say).await?;
            say(&format!(
                "round {number} of {rounds}, {}: {one}",
                theirs.name()
            ));
            of_theirs.push(one);
        }
        let ours = Point::new(ours.name(), shape.clone(), of_ours);
        pairs.push(Pair::new(
            ours,
            Point::new(theirs.name(), shape.clone(), of_theirs),
        ));
    }
    Ok(pairs)
}
