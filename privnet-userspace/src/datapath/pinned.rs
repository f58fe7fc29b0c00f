//! Pinned maps: each is compared with the table before it is opened. Never creates, loads or pins a map.

use std::path::Path;

use aya::maps::{Array, Map, MapData, MapError, MapInfo, MapType};
use privnet_ebpf::abi::Config;
use privnet_ebpf::maps::{MAP_CONFIG, MapKind, MapSpec};

use super::Error;
use super::plain::Plain;

/// Whether the map of `spec` is pinned.
///
/// # Errors
/// [`Error::Layout`] when the pinned map has another type, size, capacity or other flags.
pub(super) fn is_pinned_as(spec: &MapSpec, pin_dir: &Path, prefix_bits: u8) -> Result<bool, Error> {
    let path = pin_dir.join(spec.name);
    if !path.exists() {
        return Ok(false);
    }
    let info = MapInfo::from_pin(&path).map_err(|error| Error::map("inspect", spec.name, "", error))?;
    let expected_kind = match spec.kind {
        MapKind::Array => MapType::Array,
        MapKind::Hash => MapType::Hash,
        MapKind::PerCpuHash => MapType::PerCpuHash,
        MapKind::RingBuf => MapType::RingBuf,
    };
    let describe = |kind: &dyn std::fmt::Debug, key: u32, value: u32, entries: u32, flags: u32| {
        format!("{kind:?} of {key}-byte keys, {value}-byte values, {entries} entries, flags {flags:#x}")
    };
    let entries = spec.max_entries(prefix_bits);
    let expected = describe(&Some(expected_kind), spec.key_bytes, spec.value_bytes, entries, spec.flags);
    let found =
        describe(&info.map_type().ok(), info.key_size(), info.value_size(), info.max_entries(), info.map_flags());
    if found == expected { Ok(true) } else { Err(Error::Layout { path, expected, found }) }
}

/// Opens the pinned config map; with its id.
pub(super) fn open_config(pin_dir: &Path) -> Result<(Array<MapData, Plain<Config>>, u32), Error> {
    let info = MapInfo::from_pin(pin_dir.join(MAP_CONFIG.name))
        .map_err(|error| Error::map("inspect", MAP_CONFIG.name, "", error))?;
    Ok((typed(&MAP_CONFIG, pin_dir)?, info.id()))
}

/// Opens the pinned map of `spec` as the map type of aya.
pub(super) fn typed<M>(spec: &MapSpec, pin_dir: &Path) -> Result<M, Error>
where
    M: TryFrom<Map, Error = MapError>,
{
    let failed = |error| Error::map("open", spec.name, "", error);
    let data = MapData::from_pin(pin_dir.join(spec.name)).map_err(failed)?;
    Map::from_map_data(data).map_err(failed)?.try_into().map_err(failed)
}
