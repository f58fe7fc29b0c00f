//! A look at the built eBPF object: does it hold what the loader will ask it for?
//!
//! Reads the names of the sections and of the symbols from the ELF file; judges no code.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

/// Sections without which the kernel or aya refuses the object.
const SECTIONS: [&str; 5] = [".BTF", ".BTF.ext", "classifier", "maps", "license"];
/// The programs.
const PROGRAMS: [&str; 4] = ["from_member", "from_vtep", "guard_ingress", "guard_egress"];

/// Checks that the object in `file` is complete.
///
/// # Errors
/// It cannot be read, is no ELF file, or lacks a section or a program.
pub fn check(file: &Path) -> Result<()> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let sections = sections(&bytes).with_context(|| format!("{} is not an ELF file of 64 bits", file.display()))?;
    for wanted in SECTIONS {
        if !sections.iter().any(|(name, _)| *name == wanted) {
            let present: Vec<&str> = sections.iter().map(|(name, _)| *name).filter(|name| !name.is_empty()).collect();
            bail!("{} lacks the section {wanted}; it has {}", file.display(), present.join(" "));
        }
    }
    let strings = sections.iter().find_map(|(name, content)| (*name == ".strtab").then_some(*content)).unwrap_or(&[]);
    for wanted in PROGRAMS {
        if !strings.split(|byte| *byte == 0).any(|name| name == wanted.as_bytes()) {
            bail!("{} lacks the program {wanted}", file.display());
        }
    }
    Ok(())
}

/// The name and the content of each section; `None` if the bytes are not a little-endian ELF file of 64 bits.
///
/// Offsets: System V gABI, chapter 4, Elf64_Ehdr and Elf64_Shdr.
fn sections(bytes: &[u8]) -> Option<Vec<(&str, &[u8])>> {
    if !bytes.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let table = number(bytes, 0x28, 8)?;
    let (size, count, names) = (number(bytes, 0x3a, 2)?, number(bytes, 0x3c, 2)?, number(bytes, 0x3e, 2)?);
    let content = |index: usize| {
        let header = table.checked_add(index.checked_mul(size)?)?;
        let (start, length) = (number(bytes, header + 0x18, 8)?, number(bytes, header + 0x20, 8)?);
        bytes.get(start..start.checked_add(length)?)
    };
    let name_table = content(names)?;
    let section = |index: usize| {
        let name = name_table.get(number(bytes, table + index * size, 4)?..)?;
        let end = name.iter().position(|byte| *byte == 0)?;
        // A section without bytes in the file (.bss) has no content to speak of.
        Some((std::str::from_utf8(&name[..end]).ok()?, content(index).unwrap_or(&[])))
    };
    (0..count).map(section).collect()
}

fn number(bytes: &[u8], at: usize, length: usize) -> Option<usize> {
    let field = bytes.get(at..at.checked_add(length)?)?;
    usize::try_from(field.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sections_of_an_elf_file_are_found_and_other_bytes_have_none() {
        let own = fs::read("/proc/self/exe").expect("a process has an executable");
        let names: Vec<&str> = sections(&own).expect("which is an ELF file").iter().map(|(name, _)| *name).collect();
        assert!(names.contains(&".text") && names.contains(&".strtab"), "{names:?}");
        assert!(sections(b"#!/bin/sh\n").is_none());
        assert!(sections(&own[..0x40]).is_none(), "a truncated file");
    }

    #[test]
    fn an_executable_of_the_host_is_not_taken_for_the_programs() {
        let refusal = check(Path::new("/proc/self/exe")).expect_err("it has no BTF");
        assert!(refusal.to_string().contains("lacks the section .BTF"), "{refusal}");
    }
}
