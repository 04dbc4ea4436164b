//! The functions that SQLite calls of [`crate::SqliteDisk`]'s VFS: each asks the model, then passes on
//! to the real `unix` VFS.
//!
//! Invariant: the `sqlite3_file` of ours is a [`File`] with the real one right behind it, so that both
//! live as long as SQLite's allocation. Methods are of version 2: no memory-mapped reads.

use crate::sqlite_disk::SqliteDisk;
use crate::sqlite_model::Model;
use parking_lot::Mutex;
use rusqlite::ffi;
use std::collections::BTreeMap;
use std::ffi::{c_char, c_int, c_void, CStr, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr::null_mut;
use std::sync::{Arc, OnceLock};

/// The disks of this process, by directory.
pub(crate) static DISKS: Mutex<BTreeMap<PathBuf, Arc<Mutex<Model>>>> = Mutex::new(BTreeMap::new());

/// Where the journal's and the log's name is made durable by their first sync (os_unix.c, `isNewJrnl`).
const SYNCS_NAME: c_int = ffi::SQLITE_OPEN_WAL | ffi::SQLITE_OPEN_MAIN_JOURNAL | ffi::SQLITE_OPEN_SUPER_JOURNAL;

#[repr(C)]
struct File {
    base: ffi::sqlite3_file,
    opened: *mut Opened,
}

struct Opened {
    model: Arc<Mutex<Model>>,
    name: OsString,
    /// `None`: a file without a name, or one that is deleted when closed: no crash leaves it.
    file: Option<u64>,
    syncs_name: bool,
}

/// Make the VFS known to this process's SQLite, once.
pub(crate) fn register() -> io::Result<()> {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    let registered = REGISTERED.get_or_init(|| {
        // SAFETY: the found VFS is SQLite's static one, plain data that may be copied: its functions use
        // of their own VFS argument the path length only, but for the three below, which are given the
        // original. The copy is leaked, because SQLite keeps the pointer.
        unsafe {
            if ffi::sqlite3_initialize() != ffi::SQLITE_OK {
                return false;
            }
            let unix = ffi::sqlite3_vfs_find(c"unix".as_ptr());
            let Some(real) = unix.as_ref() else { return false };
            let vfs = Box::leak(Box::new(*real));
            vfs.iVersion = 2;
            vfs.szOsFile = (size_of::<File>() as c_int) + real.szOsFile;
            vfs.pNext = null_mut();
            vfs.zName = SqliteDisk::VFS.as_ptr();
            vfs.pAppData = unix.cast();
            vfs.xOpen = Some(open);
            vfs.xDelete = Some(delete);
            vfs.xAccess = Some(access);
            vfs.xSetSystemCall = None;
            vfs.xGetSystemCall = None;
            vfs.xNextSystemCall = None;
            ffi::sqlite3_vfs_register(vfs, 0) == ffi::SQLITE_OK
        }
    });
    match registered {
        true => Ok(()),
        false => Err(io::Error::other("SQLite does not take the VFS")),
    }
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

/// The VFS beneath.
///
/// # Safety
/// `vfs` is the one that [`register`] made.
unsafe fn beneath(vfs: *mut ffi::sqlite3_vfs) -> *mut ffi::sqlite3_vfs {
    // SAFETY: the caller's promise
    unsafe { (*vfs).pAppData.cast() }
}

/// The file beneath.
///
/// # Safety
/// `file` has `szOsFile` bytes of the VFS that [`register`] made.
unsafe fn behind(file: *mut ffi::sqlite3_file) -> *mut ffi::sqlite3_file {
    // SAFETY: the caller's promise; `File` is as aligned as any file of SQLite's
    unsafe { file.cast::<File>().add(1).cast() }
}

/// What is ours of an open file.
///
/// # Safety
/// `file` was opened by [`open`] and is not closed; SQLite uses it from one thread at a time.
unsafe fn ours<'a>(file: *mut ffi::sqlite3_file) -> &'a mut Opened {
    // SAFETY: the caller's promise
    unsafe { &mut *(*file.cast::<File>()).opened }
}

/// Call a method of the file beneath; a method that it lacks is `SQLITE_IOERR`.
macro_rules! pass_on {
    ($method:ident, $file:expr $(, $argument:expr)*) => {{
        let real = behind($file);
        match (*(*real).pMethods).$method {
            Some(method) => method(real $(, $argument)*),
            None => ffi::SQLITE_IOERR,
        }
    }};
}

/// Directory and name of a path that SQLite made full.
///
/// # Safety
/// `path` is NUL-terminated.
unsafe fn place(path: *const c_char) -> Option<(Arc<Mutex<Model>>, OsString)> {
    // SAFETY: the caller's promise
    let path = Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes()));
    let model = DISKS.lock().get(path.parent()?)?.clone();
    Some((model, path.file_name()?.to_owned()))
}

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    path: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    flags_out: *mut c_int,
) -> c_int {
    // SAFETY: SQLite's contract of xOpen; the memory of `file` holds ours and the real one. Without
    // methods it is not closed by SQLite.
    unsafe {
        (*file).pMethods = std::ptr::null();
        let found = if path.is_null() { None } else { place(path) };
        let Some((model, name)) = found else {
            // a file without a name is a temporary one, of which nobody here knows whose it is
            return if path.is_null() { open_unnamed(vfs, file, flags, flags_out) } else { ffi::SQLITE_CANTOPEN };
        };
        let lasting = flags & ffi::SQLITE_OPEN_DELETEONCLOSE == 0;
        let mut locked = model.lock();
        let mut there = 0;
        let known = locked.find(&name);
        if let Some(access) = (*beneath(vfs)).xAccess {
            access(beneath(vfs), path, ffi::SQLITE_ACCESS_EXISTS, &raw mut there);
        }
        // an empty file counts as absent there
        let creates = flags & ffi::SQLITE_OPEN_CREATE != 0 && known.is_none() && there == 0;
        let fails = if creates { locked.step("create", &name).is_err() } else { locked.crashed };
        if fails {
            return ffi::SQLITE_CANTOPEN;
        }
        let code = open_beneath(vfs, path, file, flags, flags_out);
        if code != ffi::SQLITE_OK {
            return code;
        }
        let content = match known {
            _ if !lasting => None,
            Some(content) => Some(content),
            None if creates => Some(locked.create(&name)),
            None => match read_all(behind(file)) {
                Ok(bytes) => Some(locked.adopt(&name, &bytes)),
                Err(code) => {
                    pass_on!(xClose, file);
                    return code;
                }
            },
        };
        content.into_iter().for_each(|content| locked.hold(content));
        drop(locked);
        let syncs_name = flags & ffi::SQLITE_OPEN_CREATE != 0 && flags & SYNCS_NAME != 0;
        let opened = Box::new(Opened { model, name, file: content, syncs_name });
        (*file.cast::<File>()).opened = Box::into_raw(opened);
        (*file).pMethods = &raw const METHODS;
        ffi::SQLITE_OK
    }
}

/// A temporary file belongs to no disk: a model of its own counts its steps, for nobody.
///
/// # Safety
/// As for `xOpen`.
unsafe fn open_unnamed(
    vfs: *mut ffi::sqlite3_vfs,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    flags_out: *mut c_int,
) -> c_int {
    // SAFETY: the caller's promise
    unsafe {
        let code = open_beneath(vfs, std::ptr::null(), file, flags, flags_out);
        if code == ffi::SQLITE_OK {
            let name = OsString::from("temporary");
            let opened = Box::new(Opened { model: Arc::default(), name, file: None, syncs_name: false });
            (*file.cast::<File>()).opened = Box::into_raw(opened);
            (*file).pMethods = &raw const METHODS;
        }
        code
    }
}

/// # Safety
/// As for `xOpen`.
unsafe fn open_beneath(
    vfs: *mut ffi::sqlite3_vfs,
    path: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    flags_out: *mut c_int,
) -> c_int {
    // SAFETY: the caller's promise; a failed open with methods set must be closed all the same
    unsafe {
        let Some(open) = (*beneath(vfs)).xOpen else { return ffi::SQLITE_CANTOPEN };
        let real = behind(file);
        (*real).pMethods = std::ptr::null();
        let code = open(beneath(vfs), path, real, flags, flags_out);
        if code != ffi::SQLITE_OK && !(*real).pMethods.is_null() {
            pass_on!(xClose, file);
        }
        code
    }
}

/// # Safety
/// `real` is an open file.
unsafe fn read_all(real: *mut ffi::sqlite3_file) -> Result<Vec<u8>, c_int> {
    // SAFETY: the caller's promise, and room for what is read
    unsafe {
        let methods = &*(*real).pMethods;
        let (Some(size), Some(read)) = (methods.xFileSize, methods.xRead) else { return Err(ffi::SQLITE_IOERR) };
        let mut len = 0;
        match size(real, &raw mut len) {
            ffi::SQLITE_OK if len == 0 => return Ok(Vec::new()),
            ffi::SQLITE_OK => {}
            code => return Err(code),
        }
        let mut bytes = vec![0; len as usize];
        match read(real, bytes.as_mut_ptr().cast(), len as c_int, 0) {
            ffi::SQLITE_OK => Ok(bytes),
            code => Err(code),
        }
    }
}

unsafe extern "C" fn delete(vfs: *mut ffi::sqlite3_vfs, path: *const c_char, sync_dir: c_int) -> c_int {
    // SAFETY: SQLite's contract of xDelete
    unsafe {
        let Some((model, name)) = place(path) else { return ffi::SQLITE_IOERR_DELETE };
        let Some(delete) = (*beneath(vfs)).xDelete else { return ffi::SQLITE_IOERR_DELETE };
        let mut model = model.lock();
        if model.step("delete", &name).is_err() {
            return ffi::SQLITE_IOERR_DELETE;
        }
        let code = delete(beneath(vfs), path, 0);
        if code == ffi::SQLITE_OK {
            model.delete(&name);
            if sync_dir != 0 {
                model.sync_names();
            }
        }
        code
    }
}

unsafe extern "C" fn access(
    vfs: *mut ffi::sqlite3_vfs,
    path: *const c_char,
    flags: c_int,
    answer: *mut c_int,
) -> c_int {
    // SAFETY: SQLite's contract of xAccess
    unsafe {
        if place(path).is_some_and(|(model, _)| model.lock().crashed) {
            return ffi::SQLITE_IOERR_ACCESS;
        }
        match (*beneath(vfs)).xAccess {
            Some(access) => access(beneath(vfs), path, flags, answer),
            None => ffi::SQLITE_IOERR_ACCESS,
        }
    }
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: an open file of ours, closed once
    unsafe {
        let opened = Box::from_raw((*file.cast::<File>()).opened);
        if let Some(content) = opened.file {
            opened.model.lock().release(content);
        }
        let code = pass_on!(xClose, file);
        (*file).pMethods = std::ptr::null();
        code
    }
}

unsafe extern "C" fn read(file: *mut ffi::sqlite3_file, into: *mut c_void, len: c_int, offset: i64) -> c_int {
    // SAFETY: an open file of ours, and SQLite's buffer of `len` bytes
    unsafe {
        if ours(file).model.lock().crashed {
            return ffi::SQLITE_IOERR_READ;
        }
        pass_on!(xRead, file, into, len, offset)
    }
}

unsafe extern "C" fn write(file: *mut ffi::sqlite3_file, from: *const c_void, len: c_int, offset: i64) -> c_int {
    // SAFETY: an open file of ours, and SQLite's buffer of `len` bytes, of which no more are written
    unsafe {
        let Opened { model, name, file: content, .. } = ours(file);
        let bytes = std::slice::from_raw_parts(from.cast::<u8>(), len as usize);
        let mut model = model.lock();
        let written = model.write(*content, name, offset as u64, bytes);
        if written.len > 0 {
            let code = pass_on!(xWrite, file, from, written.len as c_int, offset);
            if code != ffi::SQLITE_OK {
                return code;
            }
        }
        written.code
    }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, len: i64) -> c_int {
    // SAFETY: an open file of ours
    unsafe {
        let Opened { model, name, file: content, .. } = ours(file);
        let mut model = model.lock();
        match model.truncate(*content, name, len as u64) {
            ffi::SQLITE_OK => pass_on!(xTruncate, file, len),
            code => code,
        }
    }
}

/// Nothing is synced beneath: the machine that runs the test does not lose power.
unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, _flags: c_int) -> c_int {
    // SAFETY: an open file of ours
    let Opened { model, name, file, syncs_name } = unsafe { ours(file) };
    model.lock().sync(*file, name, syncs_name)
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, len: *mut i64) -> c_int {
    // SAFETY: an open file of ours
    unsafe {
        if ours(file).model.lock().crashed {
            return ffi::SQLITE_IOERR_FSTAT;
        }
        pass_on!(xFileSize, file, len)
    }
}

unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: an open file of ours
    unsafe { pass_on!(xLock, file, level) }
}

unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: an open file of ours
    unsafe { pass_on!(xUnlock, file, level) }
}

unsafe extern "C" fn check_reserved_lock(file: *mut ffi::sqlite3_file, answer: *mut c_int) -> c_int {
    // SAFETY: an open file of ours
    unsafe { pass_on!(xCheckReservedLock, file, answer) }
}

unsafe extern "C" fn file_control(file: *mut ffi::sqlite3_file, op: c_int, argument: *mut c_void) -> c_int {
    match op {
        // hints to allocate, which would change the file behind the model's back
        ffi::SQLITE_FCNTL_SIZE_HINT | ffi::SQLITE_FCNTL_CHUNK_SIZE => ffi::SQLITE_OK,
        ffi::SQLITE_FCNTL_MMAP_SIZE => ffi::SQLITE_NOTFOUND,
        // SAFETY: an open file of ours
        _ => unsafe { pass_on!(xFileControl, file, op, argument) },
    }
}

unsafe extern "C" fn sector_size(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: an open file of ours
    unsafe { pass_on!(xSectorSize, file) }
}

unsafe extern "C" fn device_characteristics(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: an open file of ours
    let characteristics = unsafe { pass_on!(xDeviceCharacteristics, file) };
    // all that the model keeps of what some file systems promise
    characteristics & ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE
}

unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    region: c_int,
    len: c_int,
    extend: c_int,
    at: *mut *mut c_void,
) -> c_int {
    // SAFETY: an open file of ours
    unsafe { pass_on!(xShmMap, file, region, len, extend, at) }
}

unsafe extern "C" fn shm_lock(file: *mut ffi::sqlite3_file, offset: c_int, n: c_int, flags: c_int) -> c_int {
    // SAFETY: an open file of ours
    unsafe { pass_on!(xShmLock, file, offset, n, flags) }
}

unsafe extern "C" fn shm_barrier(file: *mut ffi::sqlite3_file) {
    // SAFETY: an open file of ours
    unsafe {
        let real = behind(file);
        if let Some(barrier) = (*(*real).pMethods).xShmBarrier {
            barrier(real);
        }
    }
}

unsafe extern "C" fn shm_unmap(file: *mut ffi::sqlite3_file, delete: c_int) -> c_int {
    // SAFETY: an open file of ours
    unsafe { pass_on!(xShmUnmap, file, delete) }
}
