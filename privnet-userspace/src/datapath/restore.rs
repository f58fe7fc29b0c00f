//! Pins of maps that a stranger removed: an instance's programs hold its maps, so each is found again by them.

use std::path::{Path, PathBuf};

use aya::maps::{MapData, MapInfo};
use aya::programs::ProgramInfo;
use privnet_ebpf::maps::{self, MapSpec};

use super::{Error, Hook};

/// Pins those maps of an instance again whose pins are gone, by its programs that are pinned; returns whether all maps and
/// programs are pinned then. Traffic sees nothing of it.
///
/// # Errors
/// [`Error::Load`], [`Error::Map`] or [`Error::Pin`] when the kernel refuses.
pub fn pin_again(pin_dir: &Path) -> Result<bool, Error> {
    let is_missing = |map: &&MapSpec| !pin_dir.join(map.name).exists();
    let programs: Vec<(Hook, PathBuf)> = Hook::ALL.map(|hook| (hook, pin_dir.join(hook.program()))).into();
    if maps::ALL.iter().any(|map| is_missing(&map)) {
        for (hook, program) in programs.iter().filter(|(_, program)| program.exists()) {
            let failed = |source| Error::Load { program: hook.program(), source: Box::new(source) };
            let ids = ProgramInfo::from_pin(program).and_then(|info| info.map_ids()).map_err(failed)?;
            for id in ids.unwrap_or_default() {
                // One that went since is none of ours.
                let Ok(info) = MapInfo::from_id(id) else { continue };
                if let Some(map) = maps::ALL.iter().filter(is_missing).find(|map| info.name_as_str() == Some(map.name))
                {
                    let path = pin_dir.join(map.name);
                    let data = MapData::from_id(id).map_err(|error| Error::map("open", map.name, "", error))?;
                    data.pin(&path).map_err(|error| Error::from_pin_error("pin", &path, error))?;
                }
            }
        }
    }
    Ok(!maps::ALL.iter().any(|map| is_missing(&map)) && programs.iter().all(|(_, program)| program.exists()))
}
