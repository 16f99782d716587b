//! Links of pages to other files of the repository: each leads somewhere.

use std::collections::BTreeSet;

use super::{Breach, File};

pub(super) fn check(files: &[File]) -> Vec<Breach> {
    let mut places: BTreeSet<String> = BTreeSet::new();
    for file in files {
        places.insert(file.path.clone());
        // Its folders are places as well.
        places.extend(file.path.match_indices('/').map(|(at, _)| file.path[..at].to_owned()));
    }
    let pages = files.iter().filter(|file| file.path.ends_with(".md"));
    pages.flat_map(|page| check_page(page, &places)).collect()
}

fn check_page(page: &File, places: &BTreeSet<String>) -> Vec<Breach> {
    let Some(text) = page.text() else { return Vec::new() };
    let mut breaches = Vec::new();
    for (at, line) in text.lines().enumerate() {
        for target in targets(line) {
            let path = target.split('#').next().unwrap_or_default().trim_end_matches('/');
            let is_elsewhere = path.is_empty() || path.contains(':');
            if !is_elsewhere && !resolved(&page.path, path).is_some_and(|path| places.contains(&path)) {
                breaches.push(Breach::new(&page.path, at + 1, format!("`{target}` leads nowhere")));
            }
        }
    }
    breaches
}

/// What stands in the round brackets of a line's links.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
}

/// A link's path from the root; `None` for one that leads out of it.
fn resolved(page: &str, link: &str) -> Option<String> {
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_leads_nowhere_is_told_with_its_line() {
        let file = |path: &str, text: &str| File { path: path.to_owned(), bytes: text.as_bytes().to_vec() };
        let page = "[a](../b.md) [folder](../../core/) [out](https://x.example/y) [here](#top)\n\
                    [code](core::Job) [part](../b.md#x)\n[gone](b.md), [away](../../../x)\n";
        let files = [file("docs/guide/a.md", page), file("docs/b.md", ""), file("core/src/lib.rs", "[x](y)")];
        let told: Vec<_> = check(&files).into_iter().map(|breach| (breach.line, breach.message)).collect();
        assert_eq!(
            told,
            [(3, "`b.md` leads nowhere".to_owned()), (3, "`../../../x` leads nowhere".to_owned())]
        );
    }
}
