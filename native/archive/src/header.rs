//! Tar headers: POSIX ustar with PAX records where ustar has no room (long names, sizes from 8 GiB,
//! fractions of a second). GNU long names are read too.
//!
//! Invariant: what [`read`] accepts has a good checksum and is a file, a directory or a symlink;
//! every other type is refused by name, never skipped.

use crate::error::{corrupt, refused, shown, ArchiveError, Result};
use crate::input::Input;

pub(crate) const BLOCK: usize = 512;
/// Longest PAX or GNU header body that is read.
const EXTENSION_LEN_MAX: u64 = 64 << 10;
const OCTAL_11: u64 = 0o777_7777_7777;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File,
    Dir,
    Symlink,
}

/// What a header says. `path` has no trailing slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: EntryKind,
    pub(crate) len: u64,
    pub(crate) mode: u32,
    pub(crate) mtime_ns: i64,
    /// A symlink's text.
    pub(crate) target: Vec<u8>,
}

/// Bytes up to the next block.
pub(crate) fn padding(len: u64) -> usize {
    ((BLOCK as u64 - len % BLOCK as u64) % BLOCK as u64) as usize
}

/// A bound of what [`write`] appends for a path and target of `names_len` bytes, for planning.
pub(crate) fn header_len_max(names_len: usize) -> usize {
    let long = if names_len > 60 { (names_len + 64).next_multiple_of(BLOCK) } else { 0 };
    3 * BLOCK + long
}

/// Appends the header of an entry.
pub(crate) fn write(out: &mut Vec<u8>, meta: &Meta) {
    let mut name = meta.path.clone();
    if meta.kind == EntryKind::Dir {
        name.push(b'/');
    }
    let seconds = meta.mtime_ns.div_euclid(1_000_000_000);
    let plain_time = meta.mtime_ns.rem_euclid(1_000_000_000) == 0 && (0..=OCTAL_11 as i64).contains(&seconds);
    let mut records = Vec::new();
    if name.len() > 100 {
        record(&mut records, b"path", &name);
    }
    if meta.target.len() > 100 {
        record(&mut records, b"linkpath", &meta.target);
    }
    if meta.len > OCTAL_11 {
        record(&mut records, b"size", meta.len.to_string().as_bytes());
    }
    if !plain_time {
        record(&mut records, b"mtime", time_text(meta.mtime_ns).as_bytes());
    }
    if !records.is_empty() {
        block(out, b"././@PaxHeader", b'x', records.len() as u64, 0o644, 0, b"");
        let pad = padding(records.len() as u64);
        out.extend_from_slice(&records);
        out.resize(out.len() + pad, 0);
    }
    let kind = match meta.kind {
        EntryKind::File => b'0',
        EntryKind::Dir => b'5',
        EntryKind::Symlink => b'2',
    };
    let seconds = seconds.clamp(0, OCTAL_11 as i64) as u64;
    block(out, &name, kind, meta.len.min(OCTAL_11), meta.mode, seconds, &meta.target);
}

/// `<length> <key>=<value>\n`, where the length counts itself.
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    out.extend_from_slice(len.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn time_text(mtime_ns: i64) -> String {
    let (sign, abs) = (if mtime_ns < 0 { "-" } else { "" }, mtime_ns.unsigned_abs());
    format!("{sign}{}.{:09}", abs / 1_000_000_000, abs % 1_000_000_000)
}

fn block(out: &mut Vec<u8>, name: &[u8], kind: u8, len: u64, mode: u32, seconds: u64, target: &[u8]) {
    let start = out.len();
    out.resize(start + BLOCK, 0);
    let b = &mut out[start..];
    let cut = name.len().min(100);
    b[..cut].copy_from_slice(&name[..cut]);
    octal(&mut b[100..107], u64::from(mode & 0o7777));
    octal(&mut b[108..115], 0);
    octal(&mut b[116..123], 0);
    octal(&mut b[124..135], len);
    octal(&mut b[136..147], seconds);
    b[156] = kind;
    let cut = target.len().min(100);
    b[157..157 + cut].copy_from_slice(&target[..cut]);
    b[257..265].copy_from_slice(b"ustar\x0000");
    octal(&mut b[329..336], 0);
    octal(&mut b[337..344], 0);
    let sum = checksum(b);
    octal(&mut b[148..154], sum);
    b[155] = b' ';
}

fn octal(field: &mut [u8], mut value: u64) {
    for digit in field.iter_mut().rev() {
        *digit = b'0' + (value & 7) as u8;
        value >>= 3;
    }
}

fn checksum(block: &[u8]) -> u64 {
    let sum: u64 = block[..BLOCK].iter().map(|b| u64::from(*b)).sum();
    let field: u64 = block[148..156].iter().map(|b| u64::from(*b)).sum();
    sum - field + 8 * u64::from(b' ')
}

/// What the extension headers before an entry said.
#[derive(Debug, Default)]
struct Extended {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    len: Option<u64>,
    mtime_ns: Option<i64>,
}

/// The next entry's header; `None` at the two zero blocks that end an archive. The entry's content
/// is next in the input.
pub(crate) fn read(input: &mut impl Input) -> Result<Option<Meta>> {
    let mut extended = Extended::default();
    let mut extensions = 0;
    loop {
        let b: [u8; BLOCK] = block_of(input.take(BLOCK)?);
        if b == [0; BLOCK] {
            let second = block_of(input.take(BLOCK)?);
            return if second == [0; BLOCK] { Ok(None) } else { corrupt("a single zero block", b"") };
        }
        let kind = b[156];
        let name = plain_name(&b);
        if number(&b[148..156], &name)? != checksum(&b) {
            return corrupt("header checksum", &name);
        }
        if !matches!(kind, b'x' | b'L' | b'K') {
            return entry(&b, name, extended).map(Some);
        }
        extensions += 1;
        let len = number(&b[124..136], &name)?;
        if len > EXTENSION_LEN_MAX || extensions > 8 {
            return refused("name or extension header too long", &name);
        }
        let body = input.take(len as usize)?.to_vec();
        input.take(padding(len))?;
        match kind {
            b'L' => extended.path = Some(until_nul(&body).to_vec()),
            b'K' => extended.target = Some(until_nul(&body).to_vec()),
            _ => pax(&body, &mut extended, &name)?,
        }
    }
}

fn block_of(bytes: &[u8]) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block.copy_from_slice(&bytes[..BLOCK]);
    block
}

fn entry(b: &[u8; BLOCK], name: Vec<u8>, extended: Extended) -> Result<Meta> {
    let mut path = extended.path.unwrap_or(name);
    let len = extended.len.map_or_else(|| number(&b[124..136], &path), Ok)?;
    let kind = match b[156] {
        b'0' | 0 | b'7' => EntryKind::File,
        b'5' => EntryKind::Dir,
        b'2' => EntryKind::Symlink,
        b'1' => return refused("a hard link", &path),
        b'3' | b'4' => return refused("a device", &path),
        b'6' => return refused("a fifo", &path),
        b'S' => return refused("a sparse file", &path),
        _ => return refused("an entry of unknown type", &path),
    };
    if kind != EntryKind::File && len != 0 {
        return refused("a directory or link with content", &path);
    }
    if kind == EntryKind::Dir && path.len() > 1 && path.ends_with(b"/") {
        path.pop();
    }
    let target = match kind {
        EntryKind::Symlink => extended.target.unwrap_or_else(|| until_nul(&b[157..257]).to_vec()),
        _ => Vec::new(),
    };
    let mode = number(&b[100..108], &path)? as u32 & 0o7777;
    let mtime_ns = match extended.mtime_ns {
        Some(mtime_ns) => mtime_ns,
        None => seconds(&b[136..148], &path)?.saturating_mul(1_000_000_000),
    };
    Ok(Meta { path, kind, len, mode, mtime_ns, target })
}

fn plain_name(b: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(&b[..100]);
    let prefix = if &b[257..263] == b"ustar\0" { until_nul(&b[345..500]) } else { b"" };
    if prefix.is_empty() {
        return name.to_vec();
    }
    [prefix, b"/", name].concat()
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|b| *b == 0).next().unwrap_or_default()
}

/// A numeric field: octal digits between spaces and NULs, or GNU's base-256.
fn number(field: &[u8], entry: &[u8]) -> Result<u64> {
    if field[0] & 0x80 != 0 {
        let start = field.len() - 8;
        if field[0] != 0x80 || field[1..start].iter().any(|b| *b != 0) {
            return refused("a number too large", entry);
        }
        return Ok(field[start..].iter().fold(0, |value, b| value << 8 | u64::from(*b)));
    }
    let text = until_nul(field);
    let text = text.trim_ascii();
    if text.iter().any(|b| !(b'0'..=b'7').contains(b)) {
        return corrupt("a number in a header", entry);
    }
    Ok(text.iter().fold(0, |value, b| value << 3 | u64::from(b - b'0')))
}

fn seconds(field: &[u8], entry: &[u8]) -> Result<i64> {
    if field[0] == 0xff {
        let last: [u8; 8] = std::array::from_fn(|i| field[field.len() - 8 + i]);
        return Ok(i64::from_be_bytes(last));
    }
    Ok(number(field, entry)?.min(i64::MAX as u64) as i64)
}

fn pax(body: &[u8], extended: &mut Extended, name: &[u8]) -> Result<()> {
    let mut rest = body;
    while !rest.is_empty() {
        let Some((key, value, after)) = pax_record(rest) else {
            return corrupt("a PAX record", name);
        };
        rest = after;
        match key {
            b"path" => extended.path = Some(value.to_vec()),
            b"linkpath" => extended.target = Some(value.to_vec()),
            b"size" => extended.len = Some(digits(value).ok_or_else(|| bad_record(name))?),
            b"mtime" => extended.mtime_ns = Some(time(value).ok_or_else(|| bad_record(name))?),
            _ if key.starts_with(b"GNU.sparse") => return refused("a sparse file", name),
            _ => {}
        }
    }
    Ok(())
}

fn bad_record(name: &[u8]) -> ArchiveError {
    ArchiveError::Corrupt { what: "a PAX record", entry: shown(name) }
}

fn pax_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(8).position(|b| *b == b' ')?;
    let len = usize::try_from(digits(&bytes[..space])?).ok()?;
    let line = bytes.get(space + 1..len)?.strip_suffix(b"\n")?;
    let equals = line.iter().position(|b| *b == b'=')?;
    Some((&line[..equals], &line[equals + 1..], &bytes[len..]))
}

fn digits(text: &[u8]) -> Option<u64> {
    let plain = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    plain.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()
}

fn time(text: &[u8]) -> Option<i64> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |rest| (true, rest));
    let mut parts = text.splitn(2, |b| *b == b'.');
    let whole = i64::try_from(digits(parts.next()?)?).ok()?;
    let mut nanos = 0;
    if let Some(fraction) = parts.next().filter(|f| !f.is_empty()) {
        digits(&fraction[..fraction.len().min(18)])?;
        nanos = (0..9).fold(0, |n, i| n * 10 + fraction.get(i).map_or(0, |d| i64::from(d - b'0')));
    }
    let total = whole.checked_mul(1_000_000_000)?.checked_add(nanos)?;
    Some(if negative { -total } else { total })
}
