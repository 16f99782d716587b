//! Which crate may depend on which: the arrows of ARCHITECTURE.md.

use super::{Breach, Package};

/// For each room: what it may depend on, and what its tests may depend on besides. A name is a folder, or the
/// folder above it.
const ARROWS: &[(&str, &[&str], &[&str])] = &[
    ("core", &[], &[]),
    ("spool", &["core"], &["testkit"]),
    ("child", &["core"], &[]),
    ("manager", &["core"], &["conformance", "testkit", "providers/memory", "workers/function"]),
    ("console", &["core"], &["testkit"]),
    ("providers", &["core", "spool"], &["conformance", "testkit", "providers/memory", "workers/function"]),
    (
        "workers",
        &["core", "spool", "child"],
        &["conformance", "testkit", "providers/memory", "workers/function"],
    ),
    ("conformance", &["core"], &["providers/memory", "workers/function"]),
    ("testkit", &["core", "conformance"], &["manager", "providers/memory", "workers/function"]),
    ("bench", &["core", "spool", "manager", "providers", "workers"], &["testkit"]),
    (
        "ganger",
        &["core", "spool", "manager", "console", "providers", "workers", "bench"],
        &["conformance", "testkit"],
    ),
    ("examples", &["ganger", "core"], &["conformance", "testkit"]),
    ("e2e", &["core", "ganger", "testkit"], &["spool", "manager", "providers", "workers", "conformance"]),
    ("xtask", &[], &[]),
];

pub(super) fn check(packages: &[Package]) -> Vec<Breach> {
    packages.iter().flat_map(check_package).collect()
}

fn check_package(package: &Package) -> Vec<Breach> {
    let manifest = format!("{}/Cargo.toml", package.folder);
    let Some((_, normal, dev)) = ARROWS.iter().find(|(room, ..)| lies_in(&package.folder, room)) else {
        let message = "this room is in no arrow: add it to xtask/src/tidy/arrows.rs and ARCHITECTURE.md";
        return vec![Breach::new(manifest, 0, message)];
    };
    let allowed = |folder: &str, rooms: &[&str]| rooms.iter().any(|room| lies_in(folder, room));
    package
        .needs
        .iter()
        .filter(|need| !(allowed(&need.folder, normal) || need.dev && allowed(&need.folder, dev)))
        .map(|need| {
            let kind = if need.dev { "its tests " } else { "" };
            Breach::new(
                &manifest,
                0,
                format!(
                    "{kind}must not depend on {}: the arrows allow {}; what both need belongs in core",
                    need.folder,
                    list(normal, if need.dev { dev } else { &[] })
                ),
            )
        })
        .collect()
}

fn lies_in(folder: &str, room: &str) -> bool {
    folder.strip_prefix(room).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn list(normal: &[&str], dev: &[&str]) -> String {
    let all = [normal, dev].concat();
    if all.is_empty() { "nothing of ours".to_owned() } else { all.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::Need;

    fn package(folder: &str, needs: &[(&str, bool)]) -> Package {
        let needs = needs.iter().map(|(folder, dev)| Need { folder: (*folder).to_owned(), dev: *dev });
        Package { folder: folder.to_owned(), needs: needs.collect() }
    }

    #[test]
    fn the_arrows_of_the_picture_are_allowed() {
        let fine = [
            package("core", &[]),
            package("providers/disk", &[("core", false), ("spool", false), ("conformance", true)]),
            package("manager", &[("core", false), ("providers/memory", true)]),
            package("ganger", &[("manager", false), ("workers/cli", false), ("bench", false)]),
        ];
        assert_eq!(check(&fine), []);
    }

    #[test]
    fn a_plugin_that_reaches_for_the_manager_or_another_plugin_is_found() {
        for wrong in ["manager", "workers/cli", "providers/memory"] {
            let breaches = check(&[package("providers/disk", &[(wrong, false)])]);
            assert_eq!(breaches.len(), 1, "{wrong}");
            assert!(breaches[0].message.contains(wrong), "{breaches:?}");
        }
    }

    #[test]
    fn a_name_that_only_begins_alike_is_another_room() {
        assert!(!lies_in("corelation", "core"));
        assert!(lies_in("core", "core"));
        assert!(lies_in("providers/disk", "providers"));
    }

    #[test]
    fn what_only_tests_need_must_not_ship() {
        assert_eq!(check(&[package("manager", &[("testkit", true)])]), []);
        assert_eq!(check(&[package("manager", &[("testkit", false)])]).len(), 1);
    }

    #[test]
    fn an_unknown_room_is_found() {
        assert_eq!(check(&[package("attic", &[])]).len(), 1);
    }
}
