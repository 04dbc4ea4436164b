//! The seams to time and chance. Engines take them as arguments; nothing else in the workspace asks
//! the operating system for either (clippy forbids it), so that a test can replay a run.

use std::fmt::Debug;
use std::time::Duration;

/// Time as an engine sees it.
pub trait Clock: Send + Sync + Debug {
    /// Wall clock, milliseconds since 1970. May jump in either direction.
    fn wall_ms(&self) -> u64;
    /// Monotonic time since an arbitrary start. Never goes back.
    fn monotonic(&self) -> Duration;
    /// Wait. Only on threads of ours.
    fn sleep(&self, span: Duration);
}

/// Chance as an engine sees it.
pub trait Chance: Send + Sync + Debug {
    /// Fill with unpredictable bytes (ids, names of temporary files).
    fn fill(&self, bytes: &mut [u8]);

    /// One unpredictable number.
    fn next_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }
}

/// The machine's own clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

#[allow(clippy::disallowed_methods)] // the seam itself
impl Clock for SystemClock {
    fn wall_ms(&self) -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |d| d.as_millis() as u64)
    }

    fn monotonic(&self) -> Duration {
        use std::sync::OnceLock;
        use std::time::Instant;
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed()
    }

    fn sleep(&self, span: Duration) {
        std::thread::sleep(span);
    }
}

/// The kernel's random number generator.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemChance;

impl Chance for SystemChance {
    fn fill(&self, bytes: &mut [u8]) {
        let mut filled = 0;
        while filled < bytes.len() {
            let flags = rustix::rand::GetRandomFlags::empty();
            match rustix::rand::getrandom(&mut bytes[filled..], flags) {
                Ok(n) => filled += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => panic!("the kernel gave no random bytes: {error}"),
            }
        }
    }
}
