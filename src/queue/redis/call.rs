//! A call to Redis: a command or a script, sent over a connection to one server or to a cluster.
//!
//! On a cluster a call is sent again only when the node did not carry it out, because the slot has moved.

use ::redis::{
    Cmd, ErrorKind, FromRedisValue, RedisError, ServerErrorKind, Value,
    aio::{ConnectionLike as _, MultiplexedConnection},
    cluster_async::ClusterConnection,
    cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr},
    from_redis_value,
};

use super::{arguments::Arguments, scripts::Lua};

/// A call to a cluster whose slots have moved is sent again at most this often; none of these tries was carried out.
const MAX_REDIRECTIONS: u32 = 3;

/// The node of a cluster that holds our keys.
#[derive(Clone, Copy)]
pub(super) struct Home(Route);

#[derive(Clone)]
pub(super) enum Connection {
    Server(MultiplexedConnection),
    Cluster(ClusterConnection, Home),
}

/// A command or a script.
#[derive(Clone, Copy)]
pub(super) enum Call<'a> {
    Command(&'a Cmd),
    /// A command without a key: on a cluster it goes to the node that holds our keys, and to no other.
    Here(&'a Cmd),
    /// A command without a key, for the node of a cluster that holds this one.
    #[cfg(feature = "cli")]
    Near(&'a Cmd, &'a str),
    Script(&'a Lua, &'a [String], &'a Arguments),
}

impl Call<'_> {
    pub(super) async fn over<T: FromRedisValue>(self, connection: Connection) -> Result<T, RedisError> {
        match connection {
            Connection::Server(connection) => self.over_server(connection).await,
            // Boxed, so that a run without a cluster does not carry this large future.
            Connection::Cluster(connection, home) => Box::pin(self.over_cluster(connection, home)).await,
        }
    }

    async fn over_server<T: FromRedisValue>(self, mut connection: MultiplexedConnection) -> Result<T, RedisError> {
        match self {
            Self::Command(command) | Self::Here(command) => command.query_async(&mut connection).await,
            #[cfg(feature = "cli")]
            Self::Near(command, _) => command.query_async(&mut connection).await,
            Self::Script(lua, keys, arguments) => {
                let mut invocation = lua.script.prepare_invoke();
                invocation.key(keys).arg(&arguments.0);
                invocation.invoke_async(&mut connection).await
            }
        }
    }

    /// Sends the call to the node of its slot, and again when the slot has moved.
    async fn over_cluster<T: FromRedisValue>(
        self,
        mut connection: ClusterConnection,
        home: Home,
    ) -> Result<T, RedisError> {
        let mut tries = 0;
        loop {
            let reply = match self {
                Self::Command(command) => connection.req_packed_command(command).await,
                Self::Here(command) => connection.route_command(command.clone(), home.routing()).await,
                #[cfg(feature = "cli")]
                Self::Near(command, key) => {
                    let home = Home::of_key(key);
                    connection.route_command(command.clone(), home.routing()).await
                }
                Self::Script(lua, keys, arguments) => run_on_node(&mut connection, lua, keys, arguments).await,
            };
            match reply.and_then(Value::extract_error) {
                // Safe for every call: the node did nothing.
                Err(error) if tries < MAX_REDIRECTIONS && was_misdirected(&error) => tries += 1,
                Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::Ask) => {
                    let reply = self.ask_elsewhere(&mut connection, error).await.and_then(Value::extract_error);
                    return Ok(from_redis_value(reply?)?);
                }
                reply => return Ok(from_redis_value(reply?)?),
            }
        }
    }

    /// Sends the call, once, to the node to which its slot is moving; `ASKING` makes that node serve the keys that have arrived.
    async fn ask_elsewhere(self, connection: &mut ClusterConnection, asked: RedisError) -> Result<Value, RedisError> {
        let node = asked.redirect_node().and_then(|(address, _)| address.rsplit_once(':'));
        let Some((host, Ok(port))) = node.map(|(host, port)| (host.to_owned(), port.parse())) else {
            return Err(asked);
        };
        let mut pipeline = ::redis::pipe();
        // Applies to the next command of the same connection only, hence the pipeline.
        pipeline.cmd("ASKING");
        match self {
            Self::Command(command) | Self::Here(command) => pipeline.add_command(command.clone()),
            #[cfg(feature = "cli")]
            Self::Near(command, _) => pipeline.add_command(command.clone()),
            // The whole script, since that node may not know it.
            Self::Script(lua, keys, arguments) => {
                pipeline.cmd("EVAL").arg(lua.code).arg(keys.len()).arg(keys).arg(&arguments.0)
            }
        };
        let node = SingleNodeRoutingInfo::ByAddress { host, port };
        let mut replies = connection.route_pipeline(pipeline, 1, 1, node).await?;
        replies.pop().ok_or(asked)
    }
}

impl Home {
    /// The master that holds this key.
    pub(super) fn of_key(key: &str) -> Self {
        Self(Route::with_key(key, SlotAddr::Master))
    }

    const fn routing(self) -> RoutingInfo {
        RoutingInfo::SingleNode(SingleNodeRoutingInfo::SpecificNode(self.0))
    }
}

/// Runs a script on the node of its first key. A node that does not know the script is sent the whole text: only this node,
/// since others may be down.
async fn run_on_node(
    connection: &mut ClusterConnection,
    lua: &Lua,
    keys: &[String],
    arguments: &Arguments,
) -> Result<Value, RedisError> {
    // Every script has at least one key, and all its keys lie in one slot.
    let home = Home::of_key(&keys[0]);
    let command = |name: &str, script: &str| {
        let mut command = ::redis::cmd(name);
        command.arg(script).arg(keys.len()).arg(keys).arg(&arguments.0);
        command
    };
    // The digest first: it saves sending kilobytes with each call.
    let by_digest = command("EVALSHA", lua.script.get_hash());
    let reply = connection.route_command(by_digest, home.routing()).await.and_then(Value::extract_error);
    match reply {
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
            connection.route_command(command("EVAL", lua.code), home.routing()).await
        }
        reply => reply,
    }
}

/// True when a node refused the command because its slot has moved, or no node was known for it: nothing was done.
fn was_misdirected(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(ServerErrorKind::Moved) | ErrorKind::ClusterConnectionNotFound)
}
