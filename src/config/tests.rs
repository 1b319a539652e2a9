//! Tables: each mistake with its place and cure, precedence, and that file, environment and table agree.

use std::path::PathBuf;
use std::time::Duration;

use super::layer::Layers;
use super::*;
use crate::base::{Code, Coded};

const PEER: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    fn load(&self, overrides: &Overrides, variables: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
        let home = [("XDG_CONFIG_HOME", self.dir.path().to_str().unwrap())];
        let environment = home.iter().chain(variables).copied().collect();
        load_with(overrides, &environment, &self.dir.path().join("etc.yaml"))
    }
}

/// Reads `source` as the file `c.yaml`.
fn read(source: &str) -> Result<Settings, Vec<Mistake>> {
    let mut layers = Layers::default();
    layers.add_file(Path::new("c.yaml"), source);
    settle(layers).map(|(settings, _)| settings)
}

fn messages(source: &str) -> Vec<String> {
    read(source).unwrap_err().iter().map(Mistake::to_string).collect()
}

fn set_in_environment(variables: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    Place::new().load(&Overrides::default(), variables)
}

#[test]
fn each_mistake_is_named_with_place_and_cure() {
    let table = [
        ("p2p:\n  max_peer: 5\n", "c.yaml:2:3: p2p.max_peer: unknown key; did you mean p2p.max_peers?"),
        ("max_peers: 5\n", "c.yaml:1:1: max_peers: unknown key; did you mean p2p.max_peers?"),
        ("p2pp: {}\n", "c.yaml:1:1: p2pp: unknown key; did you mean p2p?"),
        ("colour: red\n", "c.yaml:1:1: colour: unknown key"),
        (
            "snapshot:\n  replication.copies: 1\n",
            "c.yaml:2:3: snapshot.replication.copies: unknown key; did you mean replication.copies?",
        ),
        ("p2p: 5\n", "c.yaml:1:6: p2p: \"5\" is not allowed; expected a mapping of keys (key: value)"),
        ("- a\n", "c.yaml:1:1: a list is not allowed; expected a mapping of keys (key: value)"),
        (
            "listen_port: 70000\n",
            "c.yaml:1:14: listen_port: \"70000\" is not allowed; expected a whole number from 0 to 65535",
        ),
        (
            "listen_port: -1\n",
            "c.yaml:1:14: listen_port: \"-1\" is not allowed; expected a whole number from 0 to 65535",
        ),
        (
            "listen_port: [1]\n",
            "c.yaml:1:14: listen_port: a list is not allowed; expected a whole number from 0 to 65535",
        ),
        ("listen_port: 1\nlisten_port: 2\n", "c.yaml:2:1: listen_port: given twice (first in line 1)"),
        (
            "p2p: { connection_timeout: 30 }\n",
            "c.yaml:1:28: p2p.connection_timeout: \"30\" is not allowed; expected a duration (such as 500ms, 30s, 5m, 24h, 7d) from 1s to 10m",
        ),
        (
            "replication: { lend: 5 apples }\n",
            "c.yaml:1:22: replication.lend: \"5 apples\" is not allowed; expected a size (bytes, or such as 64KiB or 5GiB)",
        ),
        (
            "snapshot: { compression: maybe }\n",
            "c.yaml:1:26: snapshot.compression: \"maybe\" is not allowed; expected true or false",
        ),
        (
            "snapshot: { min_chunk_size: 4097 }\n",
            "c.yaml:1:29: snapshot.min_chunk_size: \"4097\" is not allowed; expected a size (bytes, or such as 64KiB or 5GiB) from 64 to 1 MiB, even",
        ),
        (
            "snapshot: { min_chunk_size: 128KiB }\n",
            "c.yaml:1:29: snapshot.min_chunk_size: 131072 does not fit: it must be at most snapshot.avg_chunk_size, 65536",
        ),
        (
            "snapshot: { max_chunk_size: 32KiB }\n",
            "c.yaml:1:29: snapshot.max_chunk_size: 32768 does not fit: it must be at least snapshot.avg_chunk_size, 65536",
        ),
        (
            "security: { burst_size: 50 }\n",
            "c.yaml:1:25: security.burst_size: 50 does not fit: it must be at least security.requests_per_second, 100",
        ),
        (
            "p2p: { max_reconnect_backoff: 1s }\n",
            "c.yaml:1:31: p2p.max_reconnect_backoff: 1s does not fit: it must be at least p2p.reconnect_backoff, 5s",
        ),
        (
            "monitoring: { log_level: loud }\n",
            "c.yaml:1:26: monitoring.log_level: \"loud\" is not allowed; expected one of error, warn, info, debug, trace",
        ),
        (
            "peer_bootstrap:\n  - /ip4/1.2.3.4/tcp/9000\n",
            "c.yaml:2:5: peer_bootstrap[1]: \"/ip4/1.2.3.4/tcp/9000\" is not allowed; expected a multiaddr that ends with the peer (such as /ip4/192.0.2.1/tcp/9000/p2p/12D3KooW…)",
        ),
        (
            "p2p:\n  listen:\n    - /ip4/1.2.3.4/tcp/9000\n    - /ip4/1.2.3/tcp/9000\n",
            "c.yaml:4:7: p2p.listen[2]: \"/ip4/1.2.3/tcp/9000\" is not allowed; expected a multiaddr (such as /ip4/192.0.2.1/tcp/9000)",
        ),
        (
            "acl: { admins: [c2hvcnQ=] }\n",
            "c.yaml:1:17: acl.admins[1]: \"c2hvcnQ=\" is not allowed; expected an Ed25519 public key: 32 bytes in base64",
        ),
        (
            "monitoring: { tracing_endpoint: \"x\" }\n",
            "c.yaml:1:33: monitoring.tracing_endpoint: not available in this version; remove it or leave it at \"\"",
        ),
        (
            "backup_sets:\n  - { id: a, paths: [/x], every: 1h, cron: \"0 * * * *\" }\n",
            "c.yaml:2:5: backup_sets[1]: every and cron is not allowed; expected one of them, not both",
        ),
        (
            "backup_sets:\n  - { id: a, paths: [/x] }\n",
            "c.yaml:2:5: backup_sets[1]: neither every nor cron is not allowed; expected one of them",
        ),
        (
            "backup_sets:\n  - { id: a, paths: [x], every: 1h }\n",
            "c.yaml:2:22: backup_sets[1].paths[1]: \"x\" is not allowed; expected an absolute path",
        ),
        (
            "backup_sets:\n  - { id: a, paths: [], every: 1h }\n",
            "c.yaml:2:5: backup_sets[1].paths: an empty list is not allowed; expected at least one path",
        ),
        (
            "backup_sets:\n  - { id: a, every: 1h }\n",
            "c.yaml:2:5: backup_sets[1].paths: missing; expected paths in every backup set",
        ),
        (
            "backup_sets:\n  - { id: a, paths: [/x], every: 1h, exclude_if_present: [a/b] }\n",
            "c.yaml:2:59: backup_sets[1].exclude_if_present[1]: \"a/b\" is not allowed; expected NAME or NAME:HEADER (such as .nobackup)",
        ),
        (
            "backup_sets:\n  - { id: a, paths: [/x], every: 1h, tags: [\"a,b\"] }\n",
            "c.yaml:2:45: backup_sets[1].tags[1]: \"a,b\" is not allowed; expected a word of at most 255 bytes, without commas",
        ),
        (
            "backup_sets:\n  - { id: a, paths: [/x], every: 1h, tag: [] }\n",
            "c.yaml:2:38: backup_sets[1].tag: unknown key; did you mean tags?",
        ),
        (
            "backup_sets:\n  - { id: a, paths: [/x], cron: daily }\n",
            "c.yaml:2:33: backup_sets[1].cron: \"daily\" is not allowed; expected a cron expression of five fields that fires at some time (such as \"30 2 * * *\")",
        ),
        (
            "backup_sets:\n  - { id: a, paths: [/x], every: 1h }\n  - { id: a, paths: [/y], every: 1h }\n",
            "c.yaml:3:5: backup_sets[2].id: \"a\" does not fit: every backup set has an id of its own",
        ),
        (
            "backup_sets:\n  - { id: a, paths: [/x], every: 1h, hooks: { befor: [x] } }\n",
            "c.yaml:2:47: backup_sets[1].hooks.befor: unknown key; did you mean before?",
        ),
    ];
    for (source, message) in table {
        assert_eq!(messages(source), [message], "{source}");
    }
    assert!(messages("a: [1\n")[0].contains("not valid YAML"));
}

#[test]
fn all_mistakes_of_a_file_are_reported_in_its_order() {
    let found = messages(
        "listen_port: x\ncolour: red\np2p:\n  max_peers: 0\n  listen: [a, b]\nsecurity: { burst_size: 1 }\n",
    );
    let places: Vec<_> = found.iter().map(|m| m.split(": ").take(2).collect::<Vec<_>>().join(" ")).collect();
    let expected = [
        "c.yaml:1:14 listen_port",
        "c.yaml:2:1 colour",
        "c.yaml:4:14 p2p.max_peers",
        "c.yaml:5:12 p2p.listen[1]",
        "c.yaml:5:15 p2p.listen[2]",
        "c.yaml:6:25 security.burst_size",
    ];
    assert_eq!(places, expected);
}

#[test]
fn the_defaults_are_sound_and_as_documented() {
    let settings = Settings::default();
    assert_eq!(read("").unwrap(), settings);
    assert_eq!(read("p2p:\npeer_bootstrap:\n").unwrap(), settings);
    assert_eq!(settings.repository_path, PathBuf::from("./data"));
    assert_eq!(settings.storage.max_cache_size, 1_073_741_824);
    assert_eq!(settings.security.max_request_size, 104_857_600);
    assert_eq!(settings.p2p.away_after, Duration::from_secs(72 * 3600));
    assert_eq!(settings.retention.keep_last, None);
    for key in KEYS {
        let node = layer::written(key.default, key.shape).unwrap();
        let mut read = Settings::default();
        (key.set)(key, &mut read, &node).unwrap_or_else(|wrong| panic!("{}: {wrong:?}", key.path()));
        assert_eq!(read, settings, "{}", key.path());
    }
}

#[test]
fn values_are_read_into_their_types() {
    let peer = format!("/dns4/a.example/udp/1/quic-v1/p2p/{PEER}");
    let source = format!(
        "repository_path: /srv/vault\nlisten_port: 0\npeer_bootstrap: [{peer}]\n\
         snapshot: {{ min_chunk_size: 4096, avg_chunk_size: 32768, max_chunk_size: 131072 }}\n\
         replication: {{ copies: 3, lend: 1.5GiB }}\np2p: {{ reconnect_backoff: 1m30s }}\n\
         monitoring: {{ log_format: text }}\n"
    );
    let settings = read(&source).unwrap();
    assert_eq!(settings.repository_path, PathBuf::from("/srv/vault"));
    assert_eq!(settings.listen_port, 0);
    assert_eq!(settings.peer_bootstrap[0].address.as_str(), peer);
    assert_eq!(settings.peer_bootstrap[0].peer.to_string(), PEER);
    let snapshot = &settings.snapshot;
    assert_eq!(
        [snapshot.min_chunk_size, snapshot.avg_chunk_size, snapshot.max_chunk_size],
        [4096, 32768, 131_072]
    );
    assert_eq!(settings.replication.lend, 1_610_612_736);
    assert_eq!(settings.p2p.reconnect_backoff, Duration::from_secs(90));
    assert_eq!(settings.monitoring.log_format, LogFormat::Text);
}

#[test]
fn flag_beats_environment_beats_file_beats_default() {
    let place = Place::new();
    let origin = |loaded: &Loaded, key: &str| {
        let row = loaded.effective().into_iter().find(|row| row.key == key).unwrap();
        (row.value, row.origin.to_string())
    };
    let none = Overrides::default();
    assert_eq!(place.load(&none, &[]).unwrap().settings, Settings::default());

    let system = place.write("etc.yaml", "listen_port: 1\n");
    assert_eq!(place.load(&none, &[]).unwrap().file, Some(system));
    let user = place.write("shadowvault/config.yaml", "\nrepository_path: /file\n");
    let loaded = place.load(&none, &[]).unwrap();
    assert_eq!(loaded.file.as_ref(), Some(&user));
    assert_eq!(loaded.settings.listen_port, 9000, "files are not merged");
    assert_eq!(origin(&loaded, "repository_path"), ("/file".into(), format!("file {}:2", user.display())));
    assert_eq!(origin(&loaded, "listen_port"), ("9000".into(), "default".into()));

    let named = place.write("named.yaml", "repository_path: /named\n");
    let mut overrides = Overrides { config: Some(named), repo: None };
    assert_eq!(origin(&place.load(&overrides, &[]).unwrap(), "repository_path").0, "/named");
    let variable = [("SHADOWVAULT_REPO_PATH", "/variable")];
    let loaded = place.load(&overrides, &variable).unwrap();
    let from_variable = ("/variable".into(), "environment SHADOWVAULT_REPO_PATH".into());
    assert_eq!(origin(&loaded, "repository_path"), from_variable);
    overrides.repo = Some("/flag".into());
    let loaded = place.load(&overrides, &variable).unwrap();
    assert_eq!(origin(&loaded, "repository_path"), ("/flag".into(), "flag --repo".into()));
}

#[test]
fn a_named_file_must_exist_and_be_readable_text() {
    let place = Place::new();
    let named = |path: PathBuf| Overrides { config: Some(path), repo: None };
    let absent = place.load(&named(place.dir.path().join("no.yaml")), &[]).unwrap_err();
    assert_eq!((absent.code(), absent.code().exit()), (Code::ConfigMissing, 16));
    let wrong = place.load(&named(place.write("bad.yaml", "colour: red\n")), &[]).unwrap_err();
    assert_eq!((wrong.code(), wrong.code().exit()), (Code::ConfigInvalid, 16));
    for text in [b"a: \xff\xff".to_vec(), vec![b'#'; crate::base::limit::CONFIG_BYTES_MAX + 1]] {
        let path = place.dir.path().join("odd.yaml");
        std::fs::write(&path, text).unwrap();
        assert!(matches!(place.load(&named(path), &[]), Err(ConfigError::Read { .. })));
    }
}

/// A value other than the default, for every key, as an environment variable has it.
fn other_value(key: &Key) -> String {
    let list = |item: &str| format!("{item}, {item}");
    match (key.path().as_str(), key.shape) {
        ("peer_bootstrap", _) => list(&format!("/ip4/192.0.2.1/tcp/9000/p2p/{PEER}")),
        ("p2p.listen" | "p2p.announce", _) => list("/ip4/192.0.2.1/tcp/9000"),
        ("acl.admins", _) => "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".into(),
        ("monitoring.listen", _) => "::1".into(),
        ("security.whitelisted_ips", _) => list("10.0.0.1"),
        ("security.api_listen", _) => "127.0.0.1:9443".into(),
        ("monitoring.log_filter", _) => list("net=debug"),
        ("notify.webhook", _) => "https://hooks.example/x".into(),
        ("security.burst_size", _) => "300".into(),
        (
            "p2p.max_reconnect_backoff"
            | "storage.gc_interval"
            | "storage.scrub_interval"
            | "scheduler.restore_drill_interval",
            _,
        ) => "2h".into(),
        ("snapshot.min_chunk_size", _) => "4096".into(),
        ("snapshot.max_chunk_size", _) => "1MiB".into(),
        ("storage.memory_limit" | "storage.max_cache_size", _) => "200MiB".into(),
        (_, Shape::Switch) => (key.default == "false").to_string(),
        (_, Shape::Choice(words)) => (*words.last().unwrap()).into(),
        (_, Shape::Number) => "7".into(),
        (_, Shape::Size) => "128KiB".into(),
        (_, Shape::Duration) => "2m".into(),
        (_, Shape::Text) => "/some/where".into(),
        (_, Shape::List) => list("/some/where"),
        (_, Shape::Sets) => r#"[{"id": "a", "paths": ["/x"], "every": "1h"}]"#.into(),
    }
}

#[test]
fn every_key_can_be_set_in_the_environment() {
    for key in KEYS {
        let value = other_value(key);
        let variable = key.variable();
        // Some keys make no sense alone.
        let companion = match key.path().as_str() {
            "security.api_listen" => Some(("SHADOWVAULT_SECURITY__API_TOKEN_FILE", "/token")),
            "scheduler.enable_auto_backup" => Some(("SHADOWVAULT_SCHEDULER__BACKUP_PATHS", "/home")),
            _ => None,
        };
        let variables: Vec<(&str, &str)> =
            [(variable.as_str(), value.as_str())].into_iter().chain(companion).collect();
        let shown = match set_in_environment(&variables) {
            Ok(loaded) => {
                assert_eq!(key.state, State::Built, "{variable}");
                loaded.effective().into_iter().find(|row| row.key == key.path()).unwrap()
            }
            Err(error) => {
                assert_eq!(key.state, State::NotYet, "{error}");
                let ConfigError::Invalid(mistakes) = &error else { panic!("{error}") };
                assert!(
                    matches!(mistakes[..], [Mistake { fault: Fault::Unavailable { .. }, .. }]),
                    "{error}"
                );
                let same = set_in_environment(&[(&variable, key.default)]).unwrap();
                assert_eq!(same.settings, Settings::default());
                continue;
            }
        };
        assert_eq!((shown.key, shown.origin), (key.path(), Origin::Environment(variable.clone())));
        assert_ne!(shown.value, key.default);
        if companion.is_some() {
            continue;
        }
        let again = read(&match key.section {
            "" => format!("{}: {}\n", key.name, shown.value),
            section => format!("{section}: {{ {}: {} }}\n", key.name, shown.value),
        });
        assert_eq!(Ok(set_in_environment(&[(&variable, &value)]).unwrap().settings), again, "{variable}");
    }
}

#[test]
fn wrong_variables_are_named() {
    let table: [(&[(&str, &str)], &str); 6] = [
        (
            &[("SHADOWVAULT_P2P__MAX_PEER", "5")],
            "SHADOWVAULT_P2P__MAX_PEER: unknown key; did you mean SHADOWVAULT_P2P__MAX_PEERS?",
        ),
        (
            &[("SHADOWVAULT_LISTEN_PORT", "x")],
            "SHADOWVAULT_LISTEN_PORT: listen_port: \"x\" is not allowed; expected a whole number from 0 to 65535",
        ),
        (
            &[("SHADOWVAULT_LOG_LEVEL", "x")],
            "SHADOWVAULT_LOG_LEVEL: monitoring.log_level: \"x\" is not allowed; expected one of error, warn, info, debug, trace",
        ),
        (
            &[("SHADOWVAULT_LOG_LEVEL", "warn"), ("SHADOWVAULT_MONITORING__LOG_LEVEL", "info")],
            "SHADOWVAULT_MONITORING__LOG_LEVEL: monitoring.log_level: also set by SHADOWVAULT_LOG_LEVEL, to another value; keep one of them",
        ),
        (
            &[("SHADOWVAULT_BOOTSTRAP_PEERS", "/ip4/1.1.1.1/tcp/1,")],
            "SHADOWVAULT_BOOTSTRAP_PEERS: peer_bootstrap[1]: \"/ip4/1.1.1.1/tcp/1\" is not allowed; expected a multiaddr that ends with the peer (such as /ip4/192.0.2.1/tcp/9000/p2p/12D3KooW…)",
        ),
        (&[("SHADOWVAULT_BACKUP_SETS", "[{id: a}")], "SHADOWVAULT_BACKUP_SETS: backup_sets: not valid YAML"),
    ];
    for (variables, message) in table {
        let error = set_in_environment(variables).unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
    }
    let others = [
        ("SHADOWVAULT_PASSPHRASE", "x"),
        ("SHADOWVAULT_PASSPHRASE_FILE", "x"),
        ("SHADOWVAULT_SOCKET", "x"),
        ("SHADOWVAULT_LISTEN_PORT", ""),
    ];
    assert_eq!(set_in_environment(&others).unwrap().settings, Settings::default());
}

#[test]
fn the_example_file_reads_back_as_what_it_was_made_from() {
    let mut settings = Settings::default();
    assert_eq!(read(&example(&settings)), Ok(settings.clone()));
    let uncommented = |line: &str| match line.trim_start().strip_prefix('#') {
        Some(key) if !key.starts_with(' ') => line.replacen('#', "", 1) + "\n",
        _ => format!("{line}\n"),
    };
    let live: String = example(&settings).lines().map(uncommented).collect();
    assert_eq!(read(&live), Ok(settings.clone()), "every default, uncommented, is the default");

    settings.repository_path = "/srv/my: vault #1".into();
    settings.replication.lend = 5 << 30;
    settings.monitoring.log_format = LogFormat::Text;
    let text = example(&settings);
    assert_eq!(read(&text), Ok(settings));
    let open: Vec<_> = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('#') && !l.ends_with(':'))
        .collect();
    assert_eq!(open, ["repository_path: \"/srv/my: vault #1\"", "lend: 5GiB", "log_format: text"]);
}

#[test]
fn the_schema_has_every_key_and_no_other() {
    let schema = schema();
    let properties = schema["properties"].as_object().unwrap();
    let mut count = 0;
    for key in KEYS {
        let home = if key.section.is_empty() {
            properties
        } else {
            properties[key.section]["properties"].as_object().unwrap()
        };
        assert_eq!(home[key.name]["description"], key.doc.trim());
        assert_eq!(home[key.name]["x-environment"], key.variable());
        count += 1;
    }
    let listed: usize =
        properties.values().map(|p| p["properties"].as_object().map_or(1, |inner| inner.len())).sum();
    assert_eq!(listed, count);
    assert_eq!(properties["snapshot"]["properties"]["min_chunk_size"]["multipleOf"], 2);
}

#[test]
fn a_reload_takes_what_can_change_and_names_what_waits_for_a_restart() {
    let load = |text: &str| {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.yaml");
        std::fs::write(&file, text).unwrap();
        let overrides = Overrides { config: Some(file), ..Overrides::default() };
        load_with(&overrides, &Environment::default(), Path::new("/nowhere")).unwrap()
    };
    let mut loaded = load("listen_port: 1\nreplication: { copies: 3 }");
    assert_eq!(loaded.adopt(loaded.clone()), (vec![], vec![]));
    let new = load("listen_port: 2\nreplication: { copies: 5 }\nmonitoring: { log_level: debug }");
    let (changed, restart) = loaded.adopt(new);
    assert_eq!(changed, ["replication.copies", "monitoring.log_level"]);
    assert_eq!(restart, ["listen_port"]);
    assert_eq!((loaded.settings.replication.copies, loaded.settings.listen_port), (5, 1));
    // What is no longer in the file falls back to its default.
    let (changed, _) = loaded.adopt(load("listen_port: 1"));
    assert_eq!(changed, ["replication.copies", "monitoring.log_level"]);
    assert_eq!(loaded.settings.replication.copies, Settings::default().replication.copies);
}

#[test]
fn a_set_says_what_it_leaves_out_and_shows_it_again() {
    let text = "backup_sets:\n  - { id: a, paths: [/x], every: 1h, exclude_if_present: [.no], exclude_caches: true, \
                exclude_larger_than: 5GiB, one_file_system: true, min_files: 7, allow_shrink: true }\n";
    let loaded = read(text).unwrap();
    let set = &loaded.backup_sets[0];
    assert_eq!(
        (set.exclude_if_present.as_slice(), set.exclude_larger_than),
        (&[".no".to_owned()][..], Some(5 << 30))
    );
    assert!(set.exclude_caches && set.one_file_system && set.min_files == 7 && set.allow_shrink);
}
