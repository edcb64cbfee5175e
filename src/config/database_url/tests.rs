use secrecy::ExposeSecret as _;

use super::*;

fn read(url: &str) -> DatabaseUrl {
    DatabaseUrl::read(url).unwrap_or_else(|problems| panic!("{url}: {problems:?}"))
}

fn problems(url: &str) -> String {
    DatabaseUrl::read(url).unwrap_err().join("\n")
}

#[test]
fn schema_is_obeyed_in_every_spelling() {
    for (parameters, schemas) in [
        ("schema=stats", vec!["stats"]),
        ("schema=My%20Stats", vec!["My Stats"]),
        ("currentSchema=stats,public", vec!["stats", "public"]),
        ("currentSchema=%22My%20Stats%22,%20public", vec!["My Stats", "public"]),
        ("search_path=STATS", vec!["stats"]),
        ("options=-c%20search_path=stats", vec!["stats"]),
        ("options=-csearch_path%3Dstats", vec!["stats"]),
        ("options=--search-path%3Dstats%2Cpublic%20-c%20geqo%3Doff", vec!["stats", "public"]),
        ("options=-c%20search_path=stats%2C%5C%20public", vec!["stats", "public"]),
        ("options[search_path]=stats", vec!["stats"]),
        ("schema=stats&search_path=stats", vec!["stats"]),
    ] {
        let read = read(&format!("postgres://u:p@h/d?{parameters}"));
        assert_eq!(schemas_in(&read.schemas.unwrap()).unwrap(), schemas, "{parameters}");
    }
    for (parameters, text) in [
        ("schema=a&currentSchema=b", "twice, and differently"),
        ("schema=", "`schema` is not a list"),
        ("search_path=a,,b", "`search_path` is not a list"),
        ("options=-c", "ends after -c"),
    ] {
        let message = problems(&format!("postgres://u:p@h/d?{parameters}"));
        assert!(message.contains(text), "{parameters}: {message}");
    }
}

#[test]
fn other_options_are_passed_on() {
    let options = |text: &str| read(&format!("postgres://u@h/d?{text}")).options;
    assert_eq!(options("options=endpoint%3Dep-one"), Some("endpoint=ep-one".to_owned()));
    assert_eq!(options("options=-cgeqo%3Doff%20-csearch_path%3Da"), Some("-c geqo=off".to_owned()));
    assert_eq!(options("options=-c%20work_mem%3D1%5C%20MB"), Some("-c work_mem=1\\ MB".to_owned()));
    assert_eq!(options("options[geqo]=off"), Some("-c geqo=off".to_owned()));
    assert_eq!(options("options=-csearch_path%3Da"), None);
}

#[test]
fn hosts_and_sockets_are_read() {
    let host = |name: &str| Place::Host(name.to_owned());
    let socket = |folder: &str| Place::Socket(folder.to_owned());
    for (url, place) in [
        ("postgres://u@[::1]:5432/d", host("::1")),
        ("postgres:///d?host=::1", host("::1")),
        ("postgres://u@[2001:db8::7]/d", host("2001:db8::7")),
        ("postgresql:///d?host=/tmp", socket("/tmp")),
        ("postgresql+psycopg2://u:p@/d?host=/cloudsql/a:b:c", socket("/cloudsql/a:b:c")),
        ("postgresql://%2Fvar%2Frun%2Fpostgresql/d", socket("/var/run/postgresql")),
        ("postgresql://u:p@%2Ftmp:5433/d", socket("/tmp")),
        ("postgresql://u@one/d?host=two", host("two")),
        ("postgresql://u@/d?hostaddr=10.0.0.1", host("10.0.0.1")),
        ("jdbc:postgresql://h:5433/d?user=u&password=p", host("h")),
    ] {
        assert_eq!(read(url).place, place, "{url}");
    }
    for url in [
        "postgres://u:hush@one,two/d",
        "postgres://u:hush@one:5432,two:5432/d",
        "postgres:///d?host=one,two",
        "postgres://h/d?port=1,2",
    ] {
        let text = problems(url);
        assert!(text.contains("several hosts") && !text.contains("hush"), "{text}");
    }
    assert!(problems("postgres://u:p@/d").contains("names no host"));
    assert!(problems("postgres://h/d?hostaddr=10.0.0.1").contains("hostaddr"));
}

#[test]
fn login_may_be_in_parameters() {
    let url = read("jdbc:postgresql://h/d?user=me&password=p%40ss%2Bw&ApplicationName=one");
    assert_eq!((url.user.as_deref(), url.database.as_deref()), (Some("me"), Some("d")));
    assert_eq!(url.password.unwrap().expose_secret(), "p@ss+w");
    assert_eq!(url.application_name.as_deref(), Some("one"));
    assert_eq!(read("postgres://me:a+b%2Fc@h").password.unwrap().expose_secret(), "a+b/c");
}

#[test]
fn named_authority_is_verified() {
    use TlsMode::{Disable, Prefer, Require, VerifyCa, VerifyFull};
    for (parameters, mode, roots) in [
        ("", Prefer, None),
        ("sslmode=allow", Prefer, None),
        ("ssl=true", Require, None),
        ("sslmode=require", Require, None),
        ("sslmode=require&sslrootcert=/ca.pem", VerifyCa, Some("/ca.pem")),
        ("sslrootcert=/ca.pem", VerifyCa, Some("/ca.pem")),
        ("sslmode=prefer&sslrootcert=/ca.pem", VerifyCa, Some("/ca.pem")),
        ("ssl-mode=VERIFY_CA&ssl-ca=/ca.pem", VerifyCa, Some("/ca.pem")),
        ("sslmode=verify-full&sslrootcert=/ca.pem", VerifyFull, Some("/ca.pem")),
        ("sslmode=disable&sslrootcert=/ca.pem", Disable, Some("/ca.pem")),
        ("sslrootcert=system", VerifyFull, None),
        ("sslmode=verify-full&sslrootcert=system", VerifyFull, None),
        ("sslmode=require&sslaccept=strict", VerifyFull, None),
    ] {
        let tls = read(&format!("postgres://u@h/d?{parameters}")).tls;
        assert_eq!((tls.mode, tls.roots.as_deref()), (mode, roots), "{parameters}");
    }
    assert_eq!(read("postgres:///d?host=/tmp&sslmode=require").tls.mode, Disable);
    for parameters in ["sslmode=require&sslrootcert=system", "sslcert=/c", "sslkey=/k", "sslmode=sometimes"] {
        assert!(DatabaseUrl::read(&format!("postgres://u@h/d?{parameters}")).is_err(), "{parameters}");
    }
}

#[test]
fn poolers_disable_prepared_statements() {
    for parameters in [
        "pgbouncer=true",
        "statement_cache_size=0",
        "prepared_statement_cache_size=0",
        "prepareThreshold=0",
        "preferQueryMode=simple",
        "default_query_exec_mode=exec",
        "prepared_statements=false",
    ] {
        assert!(!read(&format!("postgres://u@h/d?{parameters}")).keeps_statements, "{parameters}");
    }
    for parameters in ["pgbouncer=false", "statement_cache_size=100", "prepareThreshold=5"] {
        assert!(read(&format!("postgres://u@h/d?{parameters}")).keeps_statements, "{parameters}");
    }
}

#[test]
fn impossible_parameters_are_refused_with_fix() {
    for (parameter, fix) in [
        ("target_session_attrs=read-only", "needs the primary"),
        ("target_session_attrs=standby", "needs the primary"),
        ("targetServerType=secondary", "needs the primary"),
        ("gssencmode=require", "verify-full"),
        ("channel_binding=require", "verify-full"),
        ("service=prod", "write host"),
        ("require_auth=scram-sha-256", "remove it"),
        ("sslcrl=/crl.pem", "remove it"),
        ("readOnly=true", "writes"),
        ("serach_path=stats", "correct its name"),
        ("role=other", "remove it"),
    ] {
        let text = problems(&format!("postgres://u:hush@h/d?{parameter}"));
        let (name, value) = parameter.split_once('=').unwrap();
        assert!(text.contains(&format!("`{name}`")) && text.contains(fix), "{text}");
        assert!(!text.contains(&format!("={value}")) && !text.contains("hush"), "{text}");
    }
    let all = DatabaseUrl::read("postgres://h/d?one=1&two=2&sslmode=x").unwrap_err();
    assert_eq!(all.len(), 3, "{all:?}");
}

#[test]
fn harmless_parameters_are_ignored() {
    read(
        "postgres://u:p@h/d?connect_timeout=10&keepalives=1&keepalives_idle=30&target_session_attrs=read-write\
         &gssencmode=disable&channel_binding=prefer&client_encoding=utf8&pool_size=5&max_overflow=10&connection_limit=5\
         &pool_timeout=10&socketTimeout=30&tcpKeepAlive=true&reWriteBatchedInserts=true&stringtype=unspecified\
         &command_timeout=60&statement_timeout=5000&timezone=UTC&sslnegotiation=postgres",
    );
}

#[test]
fn pieces_of_a_password_are_not_shown() {
    for url in [
        "postgres://me:1?hushhush@h/d",
        "postgres://h/d?hushhush",
        "postgres://h/d?hush%20hush=1",
        "postgres://me:hush/hush@h/d",
        "postgres://me:hush#hush@h/d",
        "postgres://me:hush@h:hush/d",
    ] {
        assert!(!problems(url).contains("hush"), "{url}: {}", problems(url));
    }
}

#[test]
fn user_name_is_hidden_in_server_messages() {
    let long = "hunter2".repeat(10);
    let text = format!("password authentication failed for user \"{}\" (28P01)", &long[..63]);
    assert_eq!(without_user(&long, &text), "password authentication failed for user \"***\" (28P01)");
    assert_eq!(without_user("hunter2", "no such user: hunter2"), "no such user: ***");
    assert_eq!(without_user("me", "role \"me\" is not some role"), "role \"***\" is not some role");
}
