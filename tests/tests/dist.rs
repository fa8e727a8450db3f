//! What the Debian package has in it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{self, Command},
};

use director_tests::live::binary;
use director_userspace::config;
use xtask::dist::Package;

/// A scratch directory, removed with it.
struct Scratch(PathBuf);

impl Scratch {
    fn create(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("director-{name}-{}", process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn run(program: &str, arguments: &[&Path]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_package_has_what_its_shells_pages_and_editors_look_for() {
    let scratch = Scratch::create("dist-content");
    let package = Package { binary: binary(), version: "9.9".to_owned(), to: scratch.0.clone() };
    let deb = package.build().unwrap();
    let fields = run("dpkg-deb", &[Path::new("--info"), &deb]);
    assert!(fields.contains("Version: 9.9\n") && fields.contains("libc6 (>= 2."), "{fields}");
    let tree = scratch.0.join("tree");
    run("dpkg-deb", &[Path::new("--raw-extract"), &deb, &tree]);
    for file in [
        "usr/share/bash-completion/completions/director",
        "usr/share/zsh/vendor-completions/_director",
        "usr/share/fish/vendor_completions.d/director.fish",
    ] {
        let text = fs::read_to_string(tree.join(file)).unwrap();
        assert!(text.contains("realserver"), "{file}");
    }
    for page in ["director", "director-run", "director-lab-up"] {
        let page = tree.join(format!("usr/share/man/man8/{page}.8.gz"));
        let text = run("zcat", &[&page]);
        assert!(text.contains(".SH NAME"), "{text}");
    }
    let schema = fs::read_to_string(tree.join("usr/share/director/director.schema.json")).unwrap();
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&schema).unwrap(),
        config::schema::schema()
    );
    // Inert: installed and started by mistake, it takes nothing.
    let inert = config::load(&tree.join("etc/director/director.yaml")).unwrap().config;
    assert!(inert.services.is_empty() && inert.interfaces.is_empty());
    let conffiles = fs::read_to_string(tree.join("DEBIAN/conffiles")).unwrap();
    for file in conffiles.lines() {
        assert!(tree.join(file.trim_start_matches('/')).is_file(), "{file}");
    }
    for example in fs::read_dir(tree.join("usr/share/doc/director/examples")).unwrap() {
        let loaded = config::load(&example.unwrap().path()).unwrap();
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    }
}
