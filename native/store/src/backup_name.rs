//! Names of backups: `<app>_<UTC time, ISO 8601 basic with microseconds>.tar.zst` (or `.tar.gz`), as
//! in the document we grew from.
//!
//! Invariant: the app of a name is exact. `my_app_20260112T101530.000000Z.tar.zst` is a backup of
//! `my_app` and never of `my`, because what follows the app must be a time.

use crate::backup::Format;
use macula_core::AppName;
use std::fmt;

/// A parsed backup name. Orders by time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BackupName {
    /// Microseconds since 1970, UTC.
    pub at_us: u64,
    app: String,
    format: Format,
}

const TIME_LEN: usize = "20260112T101530.123456Z".len();

impl BackupName {
    /// The name of a backup of `app` made at `at_us`.
    pub fn new(app: &AppName, at_us: u64, format: Format) -> Self {
        Self { at_us, app: app.as_str().to_owned(), format }
    }

    /// Read a file name; `None` unless it is exactly the name of a backup of `app`.
    pub fn parse(app: &AppName, file_name: &str) -> Option<Self> {
        let rest = file_name.strip_prefix(app.as_str())?.strip_prefix('_')?;
        let time = rest.get(..TIME_LEN)?;
        let format = Format::of_suffix(&rest[TIME_LEN..])?;
        let name = Self::new(app, parse_time(time)?, format);
        (name.to_string() == file_name).then_some(name)
    }

    /// The name without its suffix: the top directory inside the archive.
    pub fn stem(&self) -> String {
        format!("{}_{}", self.app, time_text(self.at_us))
    }
}

impl fmt::Display for BackupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.stem(), self.format.suffix())
    }
}

/// `20260112T101530.123456Z`
fn time_text(at_us: u64) -> String {
    let seconds = at_us / 1_000_000;
    let (year, month, day) = civil(seconds / 86_400);
    let of_day = seconds % 86_400;
    format!(
        "{year:04}{month:02}{day:02}T{:02}{:02}{:02}.{:06}Z",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60,
        at_us % 1_000_000
    )
}

fn parse_time(text: &str) -> Option<u64> {
    let number = |from: usize, to: usize| -> Option<u64> {
        let digits = text.get(from..to)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let days = days_from_civil(number(0, 4)?, number(4, 6)?, number(6, 8)?)?;
    let seconds = days * 86_400 + number(9, 11)? * 3600 + number(11, 13)? * 60 + number(13, 15)?;
    Some(seconds * 1_000_000 + number(16, 22)?)
}

/// Year, month, day of a day since 1970 (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + u64::from(month <= 2), month, day)
}

/// Days since 1970 of a date from then on (same source).
fn days_from_civil(year: u64, month: u64, day: u64) -> Option<u64> {
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let y = if month <= 2 { year - 1 } else { year };
    let era = y / 400;
    let yoe = y % 400;
    let mp = if month > 2 { month - 3 } else { month + 9 };
    let doy = (153 * mp + 2) / 5 + day - 1;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    (era * 146_097 + doe).checked_sub(719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(name: &str) -> AppName {
        AppName::new(name).expect("good")
    }

    #[test]
    fn a_name_round_trips_and_belongs_to_one_app() {
        let name = BackupName::new(&app("my_app"), 1_768_212_930_123_456, Format::Zst);
        assert_eq!(name.to_string(), "my_app_20260112T101530.123456Z.tar.zst");
        assert_eq!(BackupName::parse(&app("my_app"), &name.to_string()), Some(name.clone()));
        assert_eq!(BackupName::parse(&app("my"), &name.to_string()), None);
        let gz = BackupName::new(&app("my"), 0, Format::Gz);
        assert_eq!(gz.to_string(), "my_19700101T000000.000000Z.tar.gz");
        assert!(gz < name);
    }

    #[test]
    fn refuses_what_is_not_exactly_a_backup() {
        for other in [
            "my_20260112T101530.123456Z.tar.zst.partial",
            "my_20261312T101530.123456Z.tar.zst",
            "my_20260231T101530.123456Z.tar.zst",
            "my_20260112T101530.123456Z.zip",
            "my_2026",
            "my_20260112T101530.12345ü.tar.gz",
        ] {
            assert_eq!(BackupName::parse(&app("my"), other), None, "{other}");
        }
    }
}
