//! Which options select the daemon: each of the table is looked at, so that a new one is not forgotten by the kernel's engine.

use super::*;
use crate::config::{EngineChoice, Found, ProcessConfig};

/// What the kernel's engine does not act by. The view is left out: the engine refuses one that is about more than ids.
fn ignored_by_the_kernel(config: Config) -> String {
    let process = ProcessConfig { verbosity: 0, ..config.process.clone() };
    let rest = Config {
        view: self::config("").view,
        engine: EngineChoice::Auto,
        flags: MountFlags::default(),
        argv: Vec::new(),
        given: Vec::new(),
        root_only: Vec::new(),
        warnings: Vec::new(),
        options_file: None,
        found: Found::default(),
        // A mount of the kernel's is open to all users.
        access: config.access.filter(|access| *access != Access::Everyone),
        process,
        ..config
    };
    format!("{rest:?}")
}

#[test]
fn an_option_that_the_kernels_engine_would_ignore_selects_the_daemon() {
    let nothing = ignored_by_the_kernel(config(""));
    let mut selecting = 0;
    for option in OPTIONS.iter().filter(|option| option.mount_option.is_some()) {
        let value = sample(option);
        for (name, is_on) in option.names() {
            let mut args =
                if value.is_empty() { format!("-o {name}") } else { format!("-o {name}={value}") };
            if option.id == Opt::InvertMap {
                args.push_str(",map_from=foreign");
            }
            // A remount, an explanation and the like mount nothing.
            let Ok(Command::Mount(config)) = ordinary(&args) else { continue };
            match option.id.needs_daemon(is_on) {
                true => {
                    assert_eq!(config.daemon_options, [option.long], "{args}");
                    selecting += 1;
                }
                false => assert_eq!(ignored_by_the_kernel(config), nothing, "{args}"),
            }
        }
    }
    assert!(selecting > 50, "{selecting}");
}

#[test]
fn the_kernel_makes_mounts_by_default_but_under_the_name_bindfs() {
    let engine = |argv: &[&str]| match command(argv) {
        Ok(Command::Mount(config)) => config.engine,
        other => panic!("{argv:?}: {other:?}"),
    };
    for (name, expected) in [
        ("shiftbind", EngineChoice::Auto),
        ("mount.shiftbind", EngineChoice::Auto),
        ("/sbin/mount.fuse.shiftbind", EngineChoice::Auto),
        ("bindfs", EngineChoice::Fuse),
        ("mount.bindfs", EngineChoice::Fuse),
    ] {
        assert_eq!(engine(&[name, "/src", "/mnt"]), expected, "{name}");
        let given = engine(&[name, "/src", "/mnt", "-o", "engine=kernel"]);
        assert_eq!(given, EngineChoice::Kernel, "{name}");
    }
}
