//! What a program needs of the system that runs it.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result};

use crate::sh;

/// The glibc that a program was linked for: the newest version that one of its symbols has.
pub(super) fn glibc(program: &Path) -> Result<String> {
    let headers = sh::read(Command::new("objdump").arg("-p").arg(program))?;
    newest_glibc(&headers)
        .map(|(major, minor)| format!("{major}.{minor}"))
        .with_context(|| format!("{} is not linked with glibc", program.display()))
}

/// Reads the newest from `objdump -p`.
fn newest_glibc(headers: &str) -> Option<(u32, u32)> {
    let versions = headers.split_whitespace().filter_map(|word| word.strip_prefix("GLIBC_"));
    versions
        .filter_map(|version| {
            let mut numbers = version.split('.').map(str::parse);
            Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
        })
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        let headers = "    0x09691a75 0x00 03 GLIBC_2.2.5\n    0x0d 0x00 13 GLIBC_2.9\n\
                       \x20   0x06969188 0x00 20 GLIBC_2.34\n    0x1 0x00 02 GCC_4.2.0\n";
        assert_eq!(newest_glibc(headers), Some((2, 34)));
        assert_eq!(newest_glibc("    0x1 0x00 02 GCC_4.2.0\n"), None);
    }
}
