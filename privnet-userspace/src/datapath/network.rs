//! One network's instance: its pins are compared with the table, and adopted or replaced.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use aya::EbpfLoader;
use aya::maps::{Array, HashMap, MapData, MapError, PerCpuHashMap};
use aya::programs::{ProgramInfo, SchedClassifier};
use ipnet::Ipv4Net;
use privnet_ebpf::abi::{Config, CounterKey, MemberKey, MemberRow, PortKey, PortRow, Tally};
use privnet_ebpf::maps::{self, MAP_CONFIG, MAP_COUNTERS, MAP_MEMBERS, MAP_PORTS};
use privnet_ebpf::net::Vni;
use tracing::debug;

use super::counters::{self, Counters};
use super::pinned::{is_pinned_as, open_config, typed};
use super::plain::Plain;
use super::{Error, Hook, features, is_bpffs, object};
use crate::failpoint::{self, Step};

/// The settings of a network's instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkSpec {
    /// The network's VNI.
    pub vni: Vni,
    /// The network's prefix: the guard drops its addresses, and the maps' capacities follow from its length.
    pub prefix: Ipv4Net,
    /// The number of drops of a kind from which one event is sampled; 0 for no events.
    pub event_sample: u32,
    /// Whether local deliveries use `bpf_redirect_peer`, which is safe only where it scrubs the packet ([`features`]).
    pub redirect_peer: bool,
}

impl NetworkSpec {
    /// Settings without events, and with `bpf_redirect_peer` where it is safe on this kernel.
    #[must_use]
    pub fn new(vni: Vni, prefix: Ipv4Net) -> Self {
        Self { vni, prefix, event_sample: 0, redirect_peer: features::redirect_peer_scrubs() }
    }

    fn config(&self) -> Config {
        Config::new(self.vni, self.prefix.network().octets(), self.prefix.prefix_len())
            .with_event_sample(self.event_sample)
            .with_redirect_peer(self.redirect_peer)
    }
}

/// A loaded instance. Its programs and maps are pinned, so they outlive this value.
pub struct Network {
    pub(super) pin_dir: PathBuf,
    /// Device and inode of that directory, which another file system there does not have.
    pin_dir_id: Option<(u64, u64)>,
    pub(super) config: Array<MapData, Plain<Config>>,
    pub(super) ports: HashMap<MapData, PortKey, Plain<PortRow>>,
    pub(super) members: HashMap<MapData, MemberKey, Plain<MemberRow>>,
    pub(super) counters: PerCpuHashMap<MapData, Plain<CounterKey>, Plain<Tally>>,
    pub(super) config_map_id: u32,
    pub(super) vni: Vni,
    program_ids: [u32; Hook::ALL.len()],
    adopted: bool,
}

impl Network {
    /// Adopts the instance that is pinned in `pin_dir`, or creates and pins it. The programs are loaded unless the
    /// pinned ones are of the embedded object. Adopting an instance with the same settings writes nothing to the
    /// kernel.
    ///
    /// Attached programs of another build run on, on the same maps, until [`Network::attach`] replaces them.
    ///
    /// # Errors
    /// [`Error::NoObject`], [`Error::NotBpffs`], [`Error::Layout`] when a pinned map differs from the table (remove the
    /// pins and open again), [`Error::Load`] with the verifier's log. Earlier pins stay.
    pub fn open(pin_dir: &Path, spec: &NetworkSpec) -> Result<Self, Error> {
        let bytes = object::bytes()?;
        make_dir(pin_dir)?;
        let prefix_bits = spec.prefix.prefix_len();
        let mut pinned = true;
        for map in &maps::ALL {
            pinned &= is_pinned_as(map, pin_dir, prefix_bits)?;
        }
        pinned &= Hook::ALL.iter().all(|hook| pin_of(pin_dir, *hook).exists());
        let adopted =
            pinned && open_config(pin_dir)?.0.get(&0, 0).is_ok_and(|config| config.0.build() == object::BUILD);
        if !adopted {
            load(bytes, pin_dir, spec)?;
        }
        let mut network = Self::reopen(pin_dir, adopted)?;
        network.update_config(|config| spec.config().with_vtep(config.vtep()).with_build(config.build()))?;
        Ok(network)
    }

    /// Adopts the instance that is pinned in `pin_dir`, with the settings in its config map; `None` when no whole
    /// instance is pinned there.
    ///
    /// # Errors
    /// As [`Network::open`].
    pub fn adopt(pin_dir: &Path) -> Result<Option<Self>, Error> {
        if !pin_dir.join(MAP_CONFIG.name).exists() || !is_pinned_as(&MAP_CONFIG, pin_dir, 0)? {
            return Ok(None);
        }
        let (config, _) = open_config(pin_dir)?;
        match config.get(&0, 0).ok().and_then(|config| spec_of(&config.0)) {
            Some(spec) => Self::open(pin_dir, &spec).map(Some),
            None => Ok(None),
        }
    }

    /// Opens the instance that is pinned in `pin_dir` as it is: nothing is loaded, written or pinned. `None` when no whole
    /// instance is pinned there.
    ///
    /// # Errors
    /// [`Error::Layout`] when a pinned map differs from the table; [`Error::Map`] or [`Error::Load`] when a pin cannot be
    /// opened.
    pub fn look(pin_dir: &Path) -> Result<Option<Self>, Error> {
        let is_whole = maps::ALL.iter().all(|map| pin_dir.join(map.name).exists())
            && Hook::ALL.iter().all(|hook| pin_of(pin_dir, *hook).exists());
        if is_whole { Self::reopen(pin_dir, true).map(Some) } else { Ok(None) }
    }

    /// The settings in the config map.
    ///
    /// # Errors
    /// [`Error::Map`] when the kernel refuses the read, or the map was emptied.
    pub fn spec(&self) -> Result<NetworkSpec, Error> {
        spec_of(&self.read_config()?).ok_or_else(|| Error::map("read", MAP_CONFIG.name, "", MapError::KeyNotFound))
    }

    /// Whether the pinned programs were adopted; `false` when programs were loaded.
    #[must_use]
    pub const fn was_adopted(&self) -> bool {
        self.adopted
    }

    /// Whether the directory of its pins is there, and the one that it was opened from.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        self.pin_dir_id.is_some() && id_of(&self.pin_dir) == self.pin_dir_id
    }

    /// The directory of its pins.
    #[must_use]
    pub fn pin_dir(&self) -> &Path {
        &self.pin_dir
    }

    /// The pin of the program for `hook`.
    #[must_use]
    pub fn program_pin(&self, hook: Hook) -> PathBuf {
        pin_of(&self.pin_dir, hook)
    }

    /// The kernel's id of the program for `hook`, as a dump of filters shows it.
    #[must_use]
    pub const fn program_id(&self, hook: Hook) -> u32 {
        self.program_ids[hook as usize]
    }

    /// The index of the VTEP in the network netns.
    ///
    /// # Errors
    /// [`Error::Map`] when the kernel refuses the read.
    pub fn vtep(&self) -> Result<Option<u32>, Error> {
        Ok(self.read_config()?.vtep())
    }

    /// Sets the index of the VTEP for the programs. Without a VTEP they drop frames to other hosts.
    ///
    /// # Errors
    /// [`Error::Map`] when the kernel refuses the write.
    pub fn set_vtep(&mut self, ifindex: Option<u32>) -> Result<(), Error> {
        self.update_config(|config| config.with_vtep(ifindex))
    }

    /// Sets from how many drops of a kind the programs report one; 0 for none. Writes nothing where it is so already.
    ///
    /// # Errors
    /// [`Error::Map`] when the kernel refuses the write.
    pub fn set_event_sample(&mut self, one_in: u32) -> Result<(), Error> {
        self.update_config(|config| config.with_event_sample(one_in))
    }

    /// The counters of this network, as [`Counters::read`] gives them.
    ///
    /// # Errors
    /// [`Error::Map`] when the map cannot be read to its end.
    pub fn counters(&self) -> Result<BTreeMap<Ipv4Addr, Counters>, Error> {
        counters::by_address(&self.counters)
    }

    /// Removes the pins. Attached programs and their maps then exist as long as their interfaces.
    ///
    /// # Errors
    /// [`Error::Pin`] when a file cannot be removed.
    pub fn unpin(self) -> Result<(), Error> {
        Self::remove_pins(&self.pin_dir)
    }

    /// Removes the pins in `pin_dir` and the directory, if they exist. The kernel detaches links that were pinned
    /// there.
    ///
    /// # Errors
    /// [`Error::Pin`] when a file cannot be removed; the other files are removed.
    pub fn remove_pins(pin_dir: &Path) -> Result<(), Error> {
        let entries = match fs::read_dir(pin_dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::pin("read", pin_dir, error)),
        };
        let mut failed = None;
        for entry in entries {
            let path = entry.map_err(|error| Error::pin("read", pin_dir, error))?.path();
            if let Err(error) = fs::remove_file(&path) {
                failed.get_or_insert(Error::pin("unpin", &path, error));
            }
            failpoint::passed(Step::RemovePin);
        }
        match failed {
            Some(error) => Err(error),
            None => fs::remove_dir(pin_dir).map_err(|error| Error::pin("remove", pin_dir, error)),
        }
    }

    fn reopen(pin_dir: &Path, adopted: bool) -> Result<Self, Error> {
        let (config, config_map_id) = open_config(pin_dir)?;
        let mut program_ids = [0; Hook::ALL.len()];
        for hook in Hook::ALL {
            let info = ProgramInfo::from_pin(pin_of(pin_dir, hook))
                .map_err(|source| Error::Load { program: hook.program(), source: Box::new(source) })?;
            program_ids[hook as usize] = info.id();
        }
        let vni = config.get(&0, 0).map(|config| config.0.vni());
        let Ok(Ok(vni)) = vni else { return Err(Error::map("read", MAP_CONFIG.name, "", MapError::KeyNotFound)) };
        Ok(Self {
            pin_dir: pin_dir.to_owned(),
            pin_dir_id: id_of(pin_dir),
            vni,
            config,
            ports: typed(&MAP_PORTS, pin_dir)?,
            members: typed(&MAP_MEMBERS, pin_dir)?,
            counters: typed(&MAP_COUNTERS, pin_dir)?,
            config_map_id,
            program_ids,
            adopted,
        })
    }

    fn read_config(&self) -> Result<Config, Error> {
        self.config.get(&0, 0).map(|config| config.0).map_err(|error| Error::map("read", MAP_CONFIG.name, "", error))
    }

    fn update_config(&mut self, change: impl FnOnce(Config) -> Config) -> Result<(), Error> {
        let current = self.read_config()?;
        let wanted = change(current);
        if wanted == current {
            return Ok(());
        }
        write_config(&mut self.config, wanted)
    }
}

/// The settings that a config was written from; `None` for an empty config.
fn spec_of(config: &Config) -> Option<NetworkSpec> {
    let (address, bits) = config.prefix();
    Some(NetworkSpec {
        vni: config.vni().ok().filter(|_| config.is_current())?,
        prefix: Ipv4Net::new(address.into(), bits).ok()?,
        event_sample: config.event_sample(),
        redirect_peer: config.redirect_peer(),
    })
}

/// Made once, because making it reads and parses the BTF of the kernel (5 MiB). The programs need none of it, so it is
/// dropped at once.
static LOADER: LazyLock<Mutex<EbpfLoader<'static>>> = LazyLock::new(|| {
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    Mutex::new(loader)
});

/// Loads the object over the pinned maps and pins its programs over those of another build.
///
/// The mark of the build is written last: with the mark, all programs of the build are pinned.
fn load(bytes: &[u8], pin_dir: &Path, spec: &NetworkSpec) -> Result<(), Error> {
    let mut loaded = {
        let mut loader = LOADER.lock().unwrap_or_else(PoisonError::into_inner);
        // The loader is shared. The table has every map of the object, so each path and capacity is set again.
        for map in &maps::ALL {
            loader.map_pin_path(map.name, pin_dir.join(map.name));
            loader.map_max_entries(map.name, map.max_entries(spec.prefix.prefix_len()));
        }
        loader.load(bytes).map_err(Error::Object)?
    };
    failpoint::passed(Step::PinMaps);
    for map in &maps::ALL {
        is_pinned_as(map, pin_dir, spec.prefix.prefix_len())?;
    }
    let (mut config, _) = open_config(pin_dir)?;
    let vtep = config.get(&0, 0).ok().filter(|config| config.0.is_current()).and_then(|config| config.0.vtep());
    write_config(&mut config, spec.config().with_vtep(vtep))?;
    counters::prepare(&mut typed(&MAP_COUNTERS, pin_dir)?, CounterKey::NETWORK)?;
    for hook in Hook::ALL {
        let failed = |source| Error::Load { program: hook.program(), source: Box::new(source) };
        let program: &mut SchedClassifier =
            loaded.program_mut(hook.program()).ok_or(Error::NoObject)?.try_into().map_err(failed)?;
        program.load().map_err(failed)?;
        replace_pin(program, &pin_of(pin_dir, hook))?;
    }
    write_config(&mut config, spec.config().with_vtep(vtep).with_build(object::BUILD))?;
    failpoint::passed(Step::MarkPrograms);
    debug!(pins = %pin_dir.display(), build = object::BUILD, "loaded the programs of a network");
    Ok(())
}

/// Pins `program` at `path` in place of the program there, in one step.
fn replace_pin(program: &mut SchedClassifier, path: &Path) -> Result<(), Error> {
    let mut fresh = path.as_os_str().to_owned();
    // The bpffs reserves names with dots.
    fresh.push("-new");
    let fresh = PathBuf::from(fresh);
    match fs::remove_file(&fresh) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(Error::pin("unpin", &fresh, error)),
    }
    program.pin(&fresh).map_err(|error| Error::from_pin_error("pin", &fresh, error))?;
    fs::rename(&fresh, path).map_err(|error| Error::pin("rename the new program to", path, error))?;
    failpoint::passed(Step::PinProgram);
    Ok(())
}

fn pin_of(pin_dir: &Path, hook: Hook) -> PathBuf {
    pin_dir.join(hook.program())
}

fn id_of(pin_dir: &Path) -> Option<(u64, u64)> {
    fs::metadata(pin_dir).ok().map(|found| (found.dev(), found.ino()))
}

fn make_dir(pin_dir: &Path) -> Result<(), Error> {
    if !pin_dir.ancestors().find(|dir| dir.exists()).is_some_and(is_bpffs) {
        return Err(Error::NotBpffs { path: pin_dir.to_owned() });
    }
    fs::create_dir_all(pin_dir).map_err(|error| Error::pin("create", pin_dir, error))?;
    failpoint::passed(Step::PinDirectory);
    Ok(())
}

fn write_config(map: &mut Array<MapData, Plain<Config>>, config: Config) -> Result<(), Error> {
    map.set(0, Plain(config), 0).map_err(|error| Error::map("write", MAP_CONFIG.name, "", error))
}
