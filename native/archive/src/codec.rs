//! The two compressions: a group to one frame (zstd) or member (gzip) and back, and whole streams.
//!
//! Invariant: a group is taken only if it is exactly one frame of exactly the expected length, with
//! its checksum.

use crate::error::{corrupt, io_at, ArchiveError, Result};
use crate::item::Format;
use flate2::{Compression, GzBuilder};
use macula_core::DiskFile;
use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;
use zstd::zstd_safe::{self, CParameter};

/// Compresses groups; one per worker.
pub(crate) enum Packer {
    Zst(Box<zstd_safe::CCtx<'static>>),
    Gz(Compression),
}

impl Packer {
    pub(crate) fn new(format: Format, level: i32) -> Result<Self> {
        match format {
            Format::Gz => Ok(Self::Gz(Compression::new(level.clamp(1, 9) as u32))),
            Format::Zst => {
                let mut context = zstd_safe::CCtx::create();
                let level = level.clamp(1, 19);
                let common = [CParameter::CompressionLevel(level), CParameter::ChecksumFlag(true)];
                // a window as long as a group and a hash table that stays in the nearer cache: as small
                // as zstd's own level 2 and a tenth faster
                let fast = [CParameter::WindowLog(22), CParameter::HashLog(15)];
                for parameter in common.into_iter().chain(fast.into_iter().filter(|_| level == 2)) {
                    context.set_parameter(parameter).map_err(zstd_failed)?;
                }
                Ok(Self::Zst(Box::new(context)))
            }
        }
    }

    /// Appends the frame of `raw` to `out`, which is empty.
    pub(crate) fn pack(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Result<()> {
        match self {
            Self::Zst(context) => {
                out.reserve(zstd_safe::compress_bound(raw.len()));
                context.compress2(out, raw).map_err(zstd_failed)?;
                Ok(())
            }
            Self::Gz(level) => {
                let mut encoder = GzBuilder::new().write(out, *level);
                encoder.write_all(raw).and_then(|()| encoder.finish().map(drop)).map_err(io_at("compressing", b""))
            }
        }
    }
}

fn zstd_failed(code: usize) -> ArchiveError {
    let message = zstd_safe::get_error_name(code);
    ArchiveError::Io { doing: "compressing", entry: String::new(), source: io::Error::other(message) }
}

/// Decompresses groups; one per worker.
pub(crate) enum Unpacker {
    Zst(Box<zstd_safe::DCtx<'static>>),
    Gz,
}

impl Unpacker {
    pub(crate) fn new(format: Format) -> Self {
        match format {
            Format::Zst => Self::Zst(Box::new(zstd_safe::DCtx::create())),
            Format::Gz => Self::Gz,
        }
    }

    /// Fills `out` with the group of `len` bytes that the frame `packed` holds.
    pub(crate) fn unpack(&mut self, packed: &[u8], len: usize, out: &mut Vec<u8>) -> Result<()> {
        out.clear();
        let good = match self {
            Self::Zst(context) => {
                out.reserve(len);
                zstd_safe::find_frame_compressed_size(packed) == Ok(packed.len())
                    && zstd_safe::get_frame_content_size(packed).ok().flatten() == Some(len as u64)
                    && context.decompress(out, packed) == Ok(len)
            }
            Self::Gz => {
                out.resize(len, 0);
                let mut decoder = flate2::bufread::GzDecoder::new(packed);
                let read = decoder.read_exact(out).and_then(|()| decoder.read(&mut [0]));
                read.is_ok_and(|more| more == 0) && decoder.into_inner().is_empty()
            }
        };
        if good {
            Ok(())
        } else {
            corrupt("a group cannot be decompressed", b"")
        }
    }
}

/// What the archive's first bytes say.
pub(crate) fn detect(archive: &dyn DiskFile) -> Result<Format> {
    let mut magic = [0; 4];
    match archive.read_exact_at(&mut magic, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(ArchiveError::Truncated { what: "shorter than any archive" });
        }
        result => result.map_err(io_at("reading the archive", b""))?,
    }
    match magic {
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Ok(Format::Zst),
        [0x1f, 0x8b, ..] => Ok(Format::Gz),
        _ => Err(ArchiveError::NotOurs { what: "neither zstd nor gzip" }),
    }
}

/// The whole decompressed; ends with an error unless the last frame ends where the file does.
/// Memory: the frame's window, 128 MiB at most.
pub(crate) fn stream(format: Format, archive: &Arc<dyn DiskFile>) -> Result<Box<dyn Read>> {
    let file = FileRead { file: Arc::clone(archive), offset: 0 };
    let file = io::BufReader::with_capacity(256 << 10, file);
    Ok(match format {
        Format::Zst => Box::new(zstd::stream::read::Decoder::with_buffer(file).map_err(io_at("decompressing", b""))?),
        Format::Gz => Box::new(Members { inner: Some(flate2::bufread::GzDecoder::new(file)) }),
    })
}

/// Concatenated gzip members; anything else after one is an error, zeros too.
struct Members<R> {
    inner: Option<flate2::bufread::GzDecoder<R>>,
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        while let Some(decoder) = &mut self.inner {
            let n = decoder.read(bytes)?;
            if n > 0 || bytes.is_empty() {
                return Ok(n);
            }
            let Some(mut rest) = self.inner.take().map(flate2::bufread::GzDecoder::into_inner) else { break };
            if !rest.fill_buf()?.is_empty() {
                self.inner = Some(flate2::bufread::GzDecoder::new(rest));
            }
        }
        Ok(0)
    }
}

struct FileRead {
    file: Arc<dyn DiskFile>,
    offset: u64,
}

impl Read for FileRead {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(bytes, self.offset)?;
        self.offset += n as u64;
        Ok(n)
    }
}
