//! How a C program joins: `ronde_config`, ids and stores.

use crate::group::ronde_group;
use crate::sized::{self, Sized};
use crate::status::{Status, give, guard, null, text};
use runtime::{Config, Error, Misuse, Preset, Result, RondeId, Store};
use std::ffi::{CString, c_char, c_int, c_void};
use std::io::IsTerminal;
use std::sync::{Arc, Once};
use std::time::Duration;

/// See the header.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ronde_config {
    pub(crate) size: usize,
    pub(crate) coordinator: *const c_char,
    pub(crate) token: *const c_char,
    pub(crate) advertise: *const c_char,
    pub(crate) transports: *const c_char,
    pub(crate) interfaces: *const c_char,
    pub(crate) id: *const ronde_id,
    pub(crate) store: *const ronde_store,
    pub(crate) timeout_ms: i64,
    pub(crate) connect_timeout_ms: i64,
    pub(crate) rank: i32,
    pub(crate) ranks: i32,
    pub(crate) preset: i32,
    pub(crate) insecure: i32,
    pub(crate) streams: i32,
    pub(crate) first_port: u16,
    pub(crate) last_port: u16,
    pub(crate) min_peers: i32,
    pub(crate) max_peers: i32,
    pub(crate) shrink_only: i32,
    pub(crate) newcomer: i32,
    pub(crate) job: *const c_char,
}
// SAFETY: `repr(C)`, starts with a `usize`, no padding, pointers and integers take any value.
unsafe impl Sized for ronde_config {
    const NAME: &'static str = "ronde_config";
}

/// See the header.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ronde_id {
    bytes: [u8; RondeId::MAX_BYTES],
}

/// See the header.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ronde_store {
    pub(crate) size: usize,
    pub(crate) context: *mut c_void,
    pub(crate) set: Option<unsafe extern "C" fn(*mut c_void, *const c_char, *const c_void, usize) -> c_int>,
    pub(crate) get:
        Option<unsafe extern "C" fn(*mut c_void, *const c_char, *mut c_void, *mut usize, i64) -> c_int>,
}
// SAFETY: as above; a null function is `None`.
unsafe impl Sized for ronde_store {
    const NAME: &'static str = "ronde_store";
}

// SAFETY: the header asks for callbacks that may be called from any thread.
unsafe impl Send for ronde_store {}
// SAFETY: as above.
unsafe impl Sync for ronde_store {}

/// Largest value that a store is asked for.
const MAX_VALUE: usize = 1 << 10;

impl Store for ronde_store {
    fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        let failed = || Error::join(format!("the store's set function failed for key {key}"));
        let (Some(set), Ok(name)) = (self.set, CString::new(key)) else { return Err(failed()) };
        // SAFETY: the caller's function, with arguments as the header promises.
        let code = unsafe { set(self.context, name.as_ptr(), value.as_ptr().cast(), value.len()) };
        if code == 0 { Ok(()) } else { Err(failed()) }
    }

    fn get(&self, key: &str, patience: Duration) -> Result<Vec<u8>> {
        let failed = || Error::join(format!("the store's get function gave no value of key {key} in time"));
        let (Some(get), Ok(name)) = (self.get, CString::new(key)) else { return Err(failed()) };
        let (mut value, mut bytes) = (vec![0u8; MAX_VALUE], MAX_VALUE);
        let timeout = i64::try_from(patience.as_millis()).unwrap_or(i64::MAX);
        // SAFETY: the caller's function, with arguments as the header promises.
        let code =
            unsafe { get(self.context, name.as_ptr(), value.as_mut_ptr().cast(), &mut bytes, timeout) };
        if code != 0 || bytes > MAX_VALUE {
            return Err(failed());
        }
        value.truncate(bytes);
        Ok(value)
    }
}

/// The environment, with what the caller set on top.
///
/// # Safety
///
/// `place` is null or a `ronde_config` whose strings and structs are alive.
unsafe fn config(place: *const ronde_config) -> Result<Config> {
    let mut config = Config::from_env()?;
    // SAFETY: by the contract of this function, for all reads below.
    let Some(given) = (unsafe { sized::read_optional(place) })? else { return Ok(config) };
    // SAFETY: as above.
    let string = |place, what| unsafe { text(place, what) };
    if let Some(address) = string(given.coordinator, "coordinator")? {
        config = config.coordinator(address);
    }
    if let Some(token) = string(given.token, "token")? {
        config = config.token(token);
    }
    if let Some(address) = string(given.advertise, "advertise")? {
        config = config.advertise(address);
    }
    if let Some(list) = string(given.transports, "transports")? {
        config = config.transports(list.split(',').map(str::trim))?;
    }
    if let Some(filter) = string(given.interfaces, "interfaces")? {
        config = config.interfaces(filter);
    }
    if let Some(name) = string(given.job, "job")? {
        config = config.job(name)?;
    }
    // SAFETY: as above.
    if let Some(id) = unsafe { given.id.as_ref() } {
        config = config.id(&RondeId::from_bytes(&id.bytes)?);
    }
    // SAFETY: as above.
    if let Some(store) = unsafe { sized::read_optional(given.store) }? {
        if store.set.is_none() || store.get.is_none() {
            return Err(null("a function of the store"));
        }
        config = config.store(Arc::new(store));
    }
    numbers(config, &given)
}

/// The fields that are no pointers.
fn numbers(mut config: Config, given: &ronde_config) -> Result<Config> {
    if let Some(timeout) = milliseconds(given.timeout_ms, "timeout_ms")? {
        config = config.timeout(timeout);
    }
    if let Some(timeout) = milliseconds(given.connect_timeout_ms, "connect_timeout_ms")? {
        config = config.connect_timeout(timeout);
    }
    config = match given.rank {
        -1 => config,
        rank => config.rank(u32::try_from(rank).map_err(|_| unknown("rank", rank.into()))?),
    };
    match given.ranks {
        0 => {}
        n => config = config.size(u32::try_from(n).map_err(|_| unknown("ranks", n.into()))?),
    }
    config = growth(config, given)?;
    config = match given.preset {
        0 => config,
        1 => config.preset(Preset::Lan),
        2 => config.preset(Preset::Wan),
        other => return Err(unknown("preset", other.into())),
    };
    if flag(given.insecure, "value of insecure")? {
        config = config.insecure(true);
    }
    config = match given.streams {
        0 => config,
        n => match u8::try_from(n) {
            Ok(n) if (1..=Config::MAX_STREAMS).contains(&n) => config.streams(n),
            _ => {
                let text = format!("streams is {n}: give 1 to {}, or 0 for the default", Config::MAX_STREAMS);
                return Err(Misuse::Other(text.into()).into());
            }
        },
    };
    if given.first_port != 0 {
        config = config.ports(given.first_port, given.last_port.max(given.first_port));
    }
    Ok(config)
}

/// The fields for jobs that grow and shrink.
fn growth(mut config: Config, given: &ronde_config) -> Result<Config> {
    match given.min_peers {
        0 => {}
        n => config = config.min_peers(u32::try_from(n).map_err(|_| unknown("min_peers", n.into()))?),
    }
    match given.max_peers {
        0 => {}
        n => config = config.max_peers(u32::try_from(n).map_err(|_| unknown("max_peers", n.into()))?),
    }
    if flag(given.shrink_only, "value of shrink_only")? {
        config = config.shrink_only(true);
    }
    if flag(given.newcomer, "value of newcomer")? {
        config = config.newcomer(true);
    }
    Ok(config)
}

/// 1 is yes, 0 the default.
fn flag(value: i32, what: &'static str) -> Result<bool> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(unknown(what, other.into())),
    }
}

/// A time of the header: 0 is the default.
pub(crate) fn milliseconds(value: i64, what: &'static str) -> Result<Option<Duration>> {
    match u64::try_from(value) {
        Ok(0) => Ok(None),
        Ok(value) => Ok(Some(Duration::from_millis(value))),
        Err(_) => {
            Err(Misuse::Other(format!("{what} is {value}: give milliseconds, or 0 for the default").into())
                .into())
        }
    }
}

pub(crate) fn unknown(what: &'static str, got: i64) -> Error {
    Misuse::Other(format!("unknown {what} {got}").into()).into()
}

/// What the library has to say goes to standard error, as `RONDE_LOG` asks (default: warnings), unless the
/// program has its own way.
fn start_logging() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let filter = tracing_subscriber::EnvFilter::builder()
            .with_default_directive(tracing_subscriber::filter::LevelFilter::WARN.into())
            .with_env_var("RONDE_LOG")
            .from_env_lossy();
        let colours = std::io::stderr().is_terminal();
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours);
        let _ = log.with_writer(std::io::stderr).try_init();
    });
}

/// See the header.
///
/// # Safety
///
/// The pointers are null or as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ronde_join(place: *const ronde_config, group: *mut *mut ronde_group) -> i32 {
    guard(|| {
        start_logging();
        // SAFETY: by the contract of this function.
        unsafe { give(group, std::ptr::null_mut(), "the place for the group") }?;
        // SAFETY: by the contract of this function.
        let joined = unsafe { config(place) }?.join()?;
        // SAFETY: by the contract of this function.
        unsafe { give(group, ronde_group::boxed(joined), "the place for the group") }?;
        Ok(Status::Ok)
    })
}

/// See the header.
///
/// # Safety
///
/// The pointers are null or as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ronde_id_create(place: *const ronde_config, id: *mut ronde_id) -> i32 {
    guard(|| {
        start_logging();
        if id.is_null() {
            return Err(null("the place for the id"));
        }
        // SAFETY: by the contract of this function.
        let created = RondeId::create(&unsafe { config(place) }?)?;
        let mut bytes = [0u8; RondeId::MAX_BYTES];
        bytes[..created.as_bytes().len()].copy_from_slice(created.as_bytes());
        // SAFETY: by the contract of this function.
        unsafe { give(id, ronde_id { bytes }, "the place for the id") }?;
        Ok(Status::Ok)
    })
}

/// See the header.
///
/// # Safety
///
/// The pointer is null or as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ronde_id_free(id: *const ronde_id) -> i32 {
    guard(|| {
        // SAFETY: by the contract of this function.
        let id = unsafe { id.as_ref() }.ok_or_else(|| null("the id"))?;
        RondeId::from_bytes(&id.bytes)?.discard();
        Ok(Status::Ok)
    })
}
