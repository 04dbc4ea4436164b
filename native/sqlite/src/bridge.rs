//! The bridge to another copy of SQLite in this process (the host: an app's exqlite), which loads us as
//! an extension and so shows us its VFS. What our copy opens through a clone of that VFS is opened,
//! locked and closed by the host's code, with the host's list of inodes and its write-ahead index, as
//! if by two connections of one copy: neither side's `close` drops the other's POSIX locks.
//!
//! Invariant: once there is a bridge, it stays for the life of the process, and everything that is
//! opened as an app's goes through it; no file is open through it and past it at the same time.

use crate::guard::Inode;
use parking_lot::Mutex;
use rusqlite::ffi;
use std::collections::BTreeMap;
use std::ffi::{c_char, c_int, c_void, CStr};
use std::mem::{size_of, transmute_copy};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr::null_mut;

/// The host's VFS, as our copy knows it.
const VFS: &CStr = c"macula-bridge";
/// Releases without <https://www.sqlite.org/wal.html#walresetbug>, in which two connections that write and
/// checkpoint at one instant lose pages: through the bridge both copies do. From each to the next branch.
const SOUND: [std::ops::Range<c_int>; 3] = [3_044_006..3_045_000, 3_050_007..3_051_000, 3_051_003..c_int::MAX];

// Places in `sqlite3_api_routines` (sqlite3ext.h), which is only ever appended to.
const VERSION: usize = 67;
const MALLOC: usize = 68;
const FILE_CONTROL: usize = 127;
const MUTEX_ALLOC: usize = 130;
const MUTEX_ENTER: usize = 131;
const MUTEX_FREE: usize = 132;
const MUTEX_LEAVE: usize = 133;
const MUTEX_TRY: usize = 134;
const COMPILED_WITH: usize = 161;

static BRIDGE: Mutex<Bridge> = Mutex::new(Bridge { host: None, disputed: false, refused: None });

struct Bridge {
    /// Where the host's table of functions lies: what tells one copy of SQLite from another.
    host: Option<usize>,
    /// A second copy came, so that a descriptor which is not ours may be either's.
    disputed: bool,
    /// Why the last copy was turned away.
    refused: Option<&'static str>,
}

impl Bridge {
    /// Whether the copy with that table is the host. That a second one came is remembered.
    fn knows(&mut self, table: *const c_void) -> Result<bool, &'static str> {
        match self.host {
            None => Ok(false),
            Some(host) if host == table as usize => Ok(true),
            Some(_) => {
                self.disputed = true;
                Err("macula_storage is bridged to another copy of SQLite already")
            }
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// No other copy of SQLite has loaded us.
    NotLoaded,
    /// There is a bridge.
    Built,
    /// One has, and why there is none, or none to that one.
    Refused(&'static str),
}

/// Our connections through the bridge, by file.
static CROSSED: Mutex<BTreeMap<Inode, usize>> = Mutex::new(BTreeMap::new());

/// The entry point of a SQLite extension, for the host to call with a connection of its own, a place for
/// a message, and its table of functions. Builds the bridge, or finds that it is there.
///
/// # Safety
/// As SQLite calls it: `db` is a live connection of the copy whose `sqlite3_api_routines` are at `api`,
/// `message` is null or may be written.
pub unsafe extern "C" fn enter(db: *mut c_void, message: *mut *mut c_char, api: *const c_void) -> c_int {
    // SAFETY: passed on from the caller
    let built = catch_unwind(AssertUnwindSafe(|| unsafe { Api::new(api).and_then(|api| build(db, &api)) }));
    match built.unwrap_or(Err("a defect of macula_storage")) {
        // kept loaded: the bridge is remembered in this very library
        Ok(()) => ffi::SQLITE_OK_LOAD_PERMANENTLY,
        Err(why) => {
            BRIDGE.lock().refused = Some(why);
            // SAFETY: passed on from the caller
            unsafe { tell(why, message, api) };
            ffi::SQLITE_ERROR
        }
    }
}

/// What came of it so far. exqlite, for one, tells nobody of an extension that it could not load.
pub fn status() -> Status {
    let bridge = BRIDGE.lock();
    match (bridge.host.is_some() && !bridge.disputed, bridge.refused) {
        (true, _) => Status::Built,
        (false, Some(why)) => Status::Refused(why),
        (false, None) => Status::NotLoaded,
    }
}

/// Whether a second copy came after the host, as a new version of the host's library in a running VM does.
pub(crate) fn is_disputed() -> bool {
    BRIDGE.lock().disputed
}

/// The VFS to open an app's file with, where `wanted` would do without a bridge.
pub(crate) fn beneath(wanted: &'static CStr) -> &'static CStr {
    if wanted == c"unix" && BRIDGE.lock().host.is_some() {
        VFS
    } else {
        wanted
    }
}

/// Whether what is opened with that VFS goes through the bridge.
pub(crate) fn is_beneath(vfs: &CStr) -> bool {
    vfs == VFS
}

/// A connection of ours through the bridge, counted while it lives: its descriptor is the host's.
pub(crate) struct Crossing(Inode);

impl Crossing {
    pub(crate) fn new(file: Inode) -> Self {
        *CROSSED.lock().entry(file).or_default() += 1;
        Self(file)
    }
}

impl Drop for Crossing {
    fn drop(&mut self) {
        let mut crossed = CROSSED.lock();
        if let Some(count) = crossed.get_mut(&self.0) {
            *count -= 1;
            if *count == 0 {
                crossed.remove(&self.0);
            }
        }
    }
}

/// How many connections of ours are on that file through the bridge.
pub(crate) fn crossings(file: Inode) -> usize {
    CROSSED.lock().get(&file).copied().unwrap_or(0)
}

/// # Safety
/// See [`enter`].
unsafe fn build(db: *mut c_void, api: &Api) -> Result<(), &'static str> {
    // SAFETY: `db` is a connection of the copy that the table is of
    let mut vfs = unsafe { api.vfs_of(db)? };
    let Some(open) = vfs.xOpen else { return Err("SQLite's VFS opens no files") };
    let mut bridge = BRIDGE.lock();
    if bridge.knows(api.0)? {
        return Ok(());
    }
    // SAFETY: the functions of the table are the host's, which is running one of them
    unsafe { api.excludes()? };
    // SAFETY: asks our own copy for its VFS, which is static; the library that holds `open` is loaded
    unsafe {
        if ffi::sqlite3_initialize() != ffi::SQLITE_OK {
            return Err("macula_storage's own SQLite does not start");
        }
        let own = ffi::sqlite3_vfs_find(c"unix".as_ptr()).as_ref().and_then(|own| own.xOpen);
        if own.is_none_or(|own| std::ptr::fn_addr_eq(own, open)) {
            return Err("this is macula_storage's own copy of SQLite");
        }
        if !keep_loaded(open as *const c_void) {
            return Err("the library with SQLite in it cannot be kept loaded");
        }
    }
    vfs.pNext = null_mut();
    vfs.zName = VFS.as_ptr();
    // without what version 3 adds: the host's system calls are the host's business
    vfs.iVersion = 2;
    // SAFETY: never freed, as a registered VFS must be; its functions and `pAppData` are in a library
    // that is never unloaded. They take the clone for one of the host's: they use `pAppData` (which style
    // of locks), `zName` (to tell `unix-excl`) and `mxPathname`, never where the struct lies or `pNext`.
    let registered = unsafe { ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 0) };
    if registered != ffi::SQLITE_OK {
        return Err("macula_storage's own SQLite does not take the VFS");
    }
    bridge.host = Some(api.0 as usize);
    Ok(())
}

/// The host's table of functions.
struct Api(*const c_void);

impl Api {
    /// # Safety
    /// `table` is null or some copy's `sqlite3_api_routines`.
    unsafe fn new(table: *const c_void) -> Result<Self, &'static str> {
        if table.is_null() {
            return Err("SQLite passed no functions");
        }
        BRIDGE.lock().knows(table)?;
        let api = Self(table);
        // SAFETY: this place is in the table of each version that has tables
        let version: unsafe extern "C" fn() -> c_int = unsafe { api.at(VERSION)? };
        // SAFETY: takes nothing, reads a constant
        let version = unsafe { version() };
        match SOUND.iter().any(|sound| sound.contains(&version)) {
            true => Ok(api),
            false => Err("this copy of SQLite has the WAL-reset bug: 3.51.3 is the first without it"),
        }
    }

    /// # Safety
    /// `F` is the type of the function at that place, which a table of that version has.
    unsafe fn at<F: Copy>(&self, place: usize) -> Result<F, &'static str> {
        const { assert!(size_of::<F>() == size_of::<*const c_void>()) };
        // SAFETY: the table is an array of function pointers of one size, and has that place
        let found = unsafe { *self.0.cast::<*const c_void>().add(place) };
        if found.is_null() {
            // what a copy was compiled without
            return Err("this copy of SQLite lacks a function");
        }
        // SAFETY: not null, and of that type as the caller says
        Ok(unsafe { transmute_copy(&found) })
    }

    /// The VFS of the connection's file.
    ///
    /// # Safety
    /// `db` is a live connection of that copy.
    unsafe fn vfs_of(&self, db: *mut c_void) -> Result<ffi::sqlite3_vfs, &'static str> {
        type FileControl = unsafe extern "C" fn(*mut c_void, *const c_char, c_int, *mut c_void) -> c_int;
        let mut found: *mut ffi::sqlite3_vfs = null_mut();
        // SAFETY: the operation writes one pointer, answered by SQLite itself without the file's methods
        let code = unsafe {
            let control: FileControl = self.at(FILE_CONTROL)?;
            control(db, c"main".as_ptr(), ffi::SQLITE_FCNTL_VFS_POINTER, (&raw mut found).cast())
        };
        if code != ffi::SQLITE_OK || found.is_null() {
            return Err("SQLite does not tell the connection's VFS");
        }
        // SAFETY: a registered VFS lives on, and is at least as long as our struct when its version is not
        // below ours, which is looked at first
        unsafe {
            if (*found).iVersion < 3 || (*found).zName.is_null() || CStr::from_ptr((*found).zName) != c"unix" {
                return Err("the connection is not on SQLite's VFS `unix`");
            }
            Ok(*found)
        }
    }

    /// Whether its mutexes exclude and its syncs are syncs: the clone is used by threads of ours, and a
    /// commit through it is promised to be durable.
    ///
    /// # Safety
    /// The copy is initialized.
    unsafe fn excludes(&self) -> Result<(), &'static str> {
        type Mutexed = unsafe extern "C" fn(*mut c_void);
        const MUTEX_FAST: c_int = 0;
        // SAFETY: types as in sqlite3ext.h; the mutex is entered once, left once, freed once
        unsafe {
            let alloc: unsafe extern "C" fn(c_int) -> *mut c_void = self.at(MUTEX_ALLOC)?;
            let (enter, leave): (Mutexed, Mutexed) = (self.at(MUTEX_ENTER)?, self.at(MUTEX_LEAVE)?);
            let free: Mutexed = self.at(MUTEX_FREE)?;
            let enter_if_free: unsafe extern "C" fn(*mut c_void) -> c_int = self.at(MUTEX_TRY)?;
            let compiled_with: unsafe extern "C" fn(*const c_char) -> c_int = self.at(COMPILED_WITH)?;
            let mutex = alloc(MUTEX_FAST);
            if mutex.is_null() {
                return Err("this copy of SQLite has no mutex");
            }
            enter(mutex);
            let excluded = enter_if_free(mutex) == ffi::SQLITE_BUSY;
            leave(mutex);
            free(mutex);
            match excluded {
                false => Err("this copy of SQLite is for one thread only"),
                true if compiled_with(c"NO_SYNC".as_ptr()) != 0 => Err("this copy of SQLite does not sync"),
                true => Ok(()),
            }
        }
    }
}

/// Keep the library that holds this function from ever being unloaded.
fn keep_loaded(function: *const c_void) -> bool {
    // SAFETY: `dladdr` fills the struct with what is static for as long as the library is loaded, which it
    // is: its caller is running in it. Nothing is loaded here, a flag is set on what is.
    unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        let flags = libc::RTLD_NOW | libc::RTLD_NOLOAD | libc::RTLD_NODELETE;
        libc::dladdr(function, &raw mut info) != 0
            && !info.dli_fname.is_null()
            && !libc::dlopen(info.dli_fname, flags).is_null()
    }
}

/// # Safety
/// See [`enter`].
unsafe fn tell(why: &str, message: *mut *mut c_char, api: *const c_void) {
    if message.is_null() || api.is_null() {
        return;
    }
    let text = format!("macula_storage: {why}");
    // SAFETY: the host frees the message with its own allocator, so it is made with that; both places are
    // in the table of each version; room for the text and its NUL
    unsafe {
        let Ok(malloc) = Api(api).at::<unsafe extern "C" fn(c_int) -> *mut c_void>(MALLOC) else { return };
        let room = malloc(text.len() as c_int + 1).cast::<u8>();
        if !room.is_null() {
            room.copy_from_nonoverlapping(text.as_ptr(), text.len());
            room.add(text.len()).write(0);
            *message = room.cast();
        }
    }
}
