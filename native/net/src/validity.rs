//! From when until when our own certificate says to be valid: three steps into its DER.
//!
//! Only ever given a certificate from our own directory; what strangers send is parsed by webpki.

use time::{Date, Month, OffsetDateTime, Time};

/// A span of time, milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// Its first instant.
    pub from_ms: u64,
    /// Its last.
    pub until_ms: u64,
}

impl Validity {
    /// Of a certificate; `None` when it is none.
    pub(crate) fn of(der: &[u8]) -> Option<Self> {
        let (_, certificate, _) = element(der)?;
        let (_, mut fields, _) = element(certificate)?;
        // version, serial number, algorithm, issuer
        for _ in 0..4 {
            fields = element(fields)?.2;
        }
        let (_, validity, _) = element(fields)?;
        let (tag, from, rest) = element(validity)?;
        let from_ms = instant_ms(tag, from)?;
        let (tag, until, _) = element(rest)?;
        Some(Self { from_ms, until_ms: instant_ms(tag, until)? })
    }
}

/// Tag, content, and what follows.
pub(crate) fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x83 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |len, byte| len << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(len)?;
    Some((tag, content, rest))
}

/// UTCTime `YYMMDDhhmmssZ` or GeneralizedTime `YYYYMMDDhhmmssZ`.
fn instant_ms(tag: u8, text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, rest) = match tag {
        0x17 => {
            let (year, rest) = text.split_at_checked(2)?;
            let year: i32 = year.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        0x18 => {
            let (year, rest) = text.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    let two = |at: usize| rest.get(at..at + 2)?.parse::<u8>().ok();
    let date = Date::from_calendar_date(year, Month::try_from(two(0)?).ok()?, two(2)?).ok()?;
    let time = Time::from_hms(two(4)?, two(6)?, two(8)?).ok()?;
    let seconds = OffsetDateTime::new_utc(date, time).unix_timestamp();
    u64::try_from(seconds).ok().map(|seconds| seconds * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_an_instant() {
        assert_eq!(instant_ms(0x17, b"700101000001Z"), Some(1000));
        assert_eq!(instant_ms(0x17, b"260229000000Z"), None);
        assert_eq!(instant_ms(0x18, b"20500101000000Z"), Some(2_524_608_000_000));
        assert_eq!(instant_ms(0x18, b"2050"), None);
        assert_eq!(Validity::of(&[0x30, 0x82, 0x01]), None);
    }
}
