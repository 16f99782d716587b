//! A kernel for the machine that tests emulate: this system's, or else Debian's, unpacked beside the build and not
//! installed.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Fault, shell};

/// The package that always needs the newest kernel for virtual machines.
const PACKAGE: &str = "linux-image-cloud-amd64";

/// Puts a kernel where the tests look for one, or says that there is none.
pub(super) fn provide() {
    // `machine` beside `debug`, where `ganger_testkit::machine` looks too.
    let target = env::current_exe().ok().and_then(|exe| Some(exe.ancestors().nth(2)?.join("machine")));
    let Some(folder) = target else { return };
    if cfg!(target_arch = "x86_64")
        && !has_kernel(Path::new("/boot"))
        && !has_kernel(&folder.join("boot"))
        && let Err(why) = fetch(&folder)
    {
        println!(
            "there is no kernel in /boot that may be read, for the tests of control groups: {why}; going on without"
        );
    }
}

fn has_kernel(boot: &Path) -> bool {
    let kernels = fs::read_dir(boot).into_iter().flatten().flatten();
    kernels
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("vmlinuz"))
        .any(|entry| fs::File::open(entry.path()).is_ok())
}

fn fetch(folder: &Path) -> Result<(), Fault> {
    if !shell::has("apt-get") || !shell::has("dpkg") {
        return Err(format!("Debian's {PACKAGE} cannot be fetched here"));
    }
    let needs = shell::output(Command::new("apt-cache").args(["depends", PACKAGE]))?;
    let kernel = image(&needs).ok_or_else(|| format!("{PACKAGE} is not known (`apt-get update`)"))?;
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    shell::run(Command::new("apt-get").args(["download", "-qq", kernel]).current_dir(folder))?;
    let fetched = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let packages: Vec<PathBuf> =
        fetched.filter(|path| path.extension().is_some_and(|end| end == "deb")).collect();
    for package in packages {
        shell::run(Command::new("dpkg").arg("-x").arg(&package).arg(folder))?;
        let _ = fs::remove_file(package);
    }
    // A kernel that needs no module to begin; they are ten times its size.
    let _ = fs::remove_dir_all(folder.join("lib"));
    let _ = fs::remove_dir_all(folder.join("usr"));
    Ok(())
}

/// The kernel's own package, by what `apt-cache depends` says.
fn image(needs: &str) -> Option<&str> {
    needs
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: linux-image-").map(|_| &line.trim()[9..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_of_a_kernel_is_the_one_that_is_needed() {
        let needs = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n  Suggests: x\n";
        assert_eq!(image(needs), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(image("linux-image-cloud-amd64\n"), None);
    }
}
