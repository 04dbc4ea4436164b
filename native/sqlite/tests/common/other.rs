//! A second, real copy of SQLite in this process, as exqlite's would be: the system's shared library.

use std::ffi::{c_char, c_int, c_void, CStr, CString};
use std::path::Path;
use std::ptr::null_mut;

type Open = unsafe extern "C" fn(*const c_char, *mut *mut c_void) -> c_int;
type Row = unsafe extern "C" fn(*mut c_void, c_int, *mut *mut c_char, *mut *mut c_char) -> c_int;
type Exec = unsafe extern "C" fn(*mut c_void, *const c_char, Option<Row>, *mut c_void, *mut *mut c_char) -> c_int;
type Close = unsafe extern "C" fn(*mut c_void) -> c_int;
type OnOpen = unsafe extern "C" fn(Entry) -> c_int;
/// An extension's entry point.
pub type Entry = unsafe extern "C" fn(*mut c_void, *mut *mut c_char, *const c_void) -> c_int;

/// The other copy.
pub struct Other {
    open: Open,
    exec: Exec,
    close: Close,
    auto_extension: OnOpen,
}

impl Other {
    /// `None`, said, on a machine that has none.
    #[allow(clippy::print_stdout)]
    pub fn load() -> Option<Self> {
        // SAFETY: the library's functions have the signatures above (sqlite3.h)
        unsafe {
            let flags = libc::RTLD_NOW | libc::RTLD_LOCAL | libc::RTLD_DEEPBIND;
            let library = libc::dlopen(c"libsqlite3.so.0".as_ptr(), flags);
            if library.is_null() {
                // where all of it must run, nothing is left out
                assert!(std::env::var_os("MACULA_TORTURE").is_none(), "no libsqlite3.so.0");
                println!("skipped: no libsqlite3.so.0 on this machine");
                return None;
            }
            let symbol = |name: &CStr| {
                let found = libc::dlsym(library, name.as_ptr());
                assert!(!found.is_null(), "{name:?}");
                found
            };
            let version: unsafe extern "C" fn() -> *const c_char = std::mem::transmute(symbol(c"sqlite3_libversion"));
            let ours = rusqlite::version();
            assert_ne!(CStr::from_ptr(version()).to_str().unwrap(), ours, "this must be another copy");
            Some(Self {
                open: std::mem::transmute::<*mut c_void, Open>(symbol(c"sqlite3_open")),
                exec: std::mem::transmute::<*mut c_void, Exec>(symbol(c"sqlite3_exec")),
                close: std::mem::transmute::<*mut c_void, Close>(symbol(c"sqlite3_close")),
                auto_extension: std::mem::transmute::<*mut c_void, OnOpen>(symbol(c"sqlite3_auto_extension")),
            })
        }
    }

    /// Have the entry point called, with this copy's functions, for each connection that is opened.
    pub fn extend(&self, entry: Entry) {
        // SAFETY: an entry point, of this program, which stays loaded
        assert_eq!(unsafe { (self.auto_extension)(entry) }, 0);
    }

    pub fn open<'a>(&'a self, path: &Path) -> Foreign<'a> {
        let path = CString::new(path.to_str().unwrap()).unwrap();
        let mut handle = null_mut();
        // SAFETY: a NUL-terminated path and a place for the handle
        assert_eq!(unsafe { (self.open)(path.as_ptr(), &raw mut handle) }, 0);
        Foreign { other: self, handle }
    }
}

/// A connection of the other copy.
pub struct Foreign<'a> {
    other: &'a Other,
    handle: *mut c_void,
}

impl Foreign<'_> {
    pub fn exec(&self, sql: &str) -> c_int {
        let sql = CString::new(sql).unwrap();
        // SAFETY: a live handle, a NUL-terminated text, no callback
        unsafe { (self.other.exec)(self.handle, sql.as_ptr(), None, null_mut(), null_mut()) }
    }

    /// The first column of the last row, as text; an error's code if there is one.
    pub fn ask(&self, sql: &str) -> Result<String, c_int> {
        unsafe extern "C" fn keep(into: *mut c_void, _: c_int, values: *mut *mut c_char, _: *mut *mut c_char) -> c_int {
            // SAFETY: `into` is the String below; SQLite passes a row of at least one text or null
            unsafe {
                if let Some(value) = (*values).as_ref() {
                    *into.cast::<String>() = CStr::from_ptr(value).to_str().unwrap().to_owned();
                }
            }
            0
        }
        let sql = CString::new(sql).unwrap();
        let mut found = String::new();
        let into = (&raw mut found).cast();
        // SAFETY: a live handle, a NUL-terminated text, a callback for this String
        match unsafe { (self.other.exec)(self.handle, sql.as_ptr(), Some(keep), into, null_mut()) } {
            0 => Ok(found),
            code => Err(code),
        }
    }
}

impl Drop for Foreign<'_> {
    fn drop(&mut self) {
        // SAFETY: a live handle, closed once
        unsafe { (self.other.close)(self.handle) };
    }
}
