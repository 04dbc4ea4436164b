defmodule MaculaStorage.Khepri do
  @moduledoc """
  Replicated hot state: a tree of terms with strong consistency.

  A node works alone from the first call on, without configuration or listener:

      iex> MaculaStorage.Khepri.put([:doc, :console, :port], 4000)
      :ok
      iex> MaculaStorage.Khepri.get([:doc, :console, :port])
      {:ok, 4000}

  **Paths** are lists of 1 to 64 terms; the parents of a node are made with it and go with their last child.
  **Values** are any term, up to 8 MiB. Every change has a revision of the whole state; every node knows the
  revision that created it, the one that last changed it, and its version.

  **Patterns** are paths in which `:*` stands for any one name, `:**` for any number of names, none too,
  and `{:*, conditions}` for any one name of a node of which the conditions hold.

  **Conditions** are a keyword list, all of which must hold:

    * `exists: true | false`, `has_data: true | false`
    * `value: term` (the data is this term, `===`), `matches: pattern` (the data matches; the atom `:_`
      matches anything, a map matches when the keys named do)
    * `version:`, `created:`, `modified:`, `children:`, each a number or `{op, number}` with `op` one of
      `:==`, `:!=`, `:<`, `:<=`, `:>`, `:>=`
    * `not: conditions`, `all: [conditions, ...]`, `any: [conditions, ...]`

  **Consistency** of a read: `:linearizable` (default) holds every write that was answered anywhere before
  the read began; `{:stale, ms}` every one that was answered so long before (it asks the others when the last
  answer is older); `:local` is what this node has; `:cached`, of `get/2`, what a `MaculaStorage.Cache` holds.

  **Errors** of all functions: `{:error, :timeout}` (a write may or may not have happened),
  `{:error, :no_quorum}`, `{:error, :busy}`, `{:error, :disk_full}` (nothing was written; reads go on),
  `{:error, :poisoned}` after a failed sync (`close/0`, then the next call opens it again),
  `{:error, :locked}` when another OS process has this base's state open, `{:error, :too_large}`,
  `{:error, %MaculaStorage.Error{}}`. Misuse raises `ArgumentError`.

  A write costs one sync, shared by all that wait together, on each of a majority of the members.
  """

  alias MaculaStorage.{Apps, Cache, Options}
  alias MaculaStorage.Khepri.{Cluster, Dump, Engine, Leases, Node, Op, Tx, Walk, Watches, Wire}

  @type path :: [term, ...]
  @type pattern :: [term, ...]
  @type conditions :: keyword
  @type failure :: {:error, atom | MaculaStorage.Error.t()}
  @type read_option ::
          {:consistency, :linearizable | {:stale, pos_integer} | :local | :cached}
          | {:timeout, timeout}
          | {:details, boolean}
          | {:stale, :ok | :error}
  @type write_option ::
          {:ttl, pos_integer | :infinity}
          | {:keep_while, %{path => conditions} | [{path, conditions}]}
          | {:lease, pos_integer | nil}
          | {:timeout, timeout}

  @consistency {:linearizable, {:consistency, [:linearizable, :local]}}
  @read_options [consistency: @consistency, timeout: {5_000, :timeout}]
  @member_options [timeout: {60_000, :timeout}]
  @force_options [force: {false, :boolean}] ++ @member_options
  @get_options [
    details: {false, :boolean},
    stale: {:error, {:one_of, [:ok, :error]}},
    consistency: {:linearizable, {:consistency, [:linearizable, :local, :cached]}},
    timeout: {5_000, :timeout}
  ]
  @local %{consistency: :local, timeout: 5_000, details: false}

  ## One node

  @doc """
  Puts a value, whether or not one is there.

  Options: `ttl:` milliseconds after which it goes by itself (at most a second late); `keep_while:` a map of
  paths to conditions, the node is deleted as soon as one of them does not hold; `lease:` an id, the node
  goes with the lease; `timeout:` milliseconds (default 5,000).

  Durability: `:ok` means synced by a majority. Cost: one sync on each, shared.
  Errors: also `{:error, {:keep_while_not_met, path}}`, `{:error, :lease_unknown}`.

      iex> MaculaStorage.Khepri.put([:doc, :put], %{any: "term"}, ttl: 60_000)
      :ok
  """
  @spec put(path, term, [write_option]) :: :ok | failure
  def put(path, value, options \\ []) do
    {op, options} = Op.put!(path, value, options)
    done(Engine.txn([], [op], [], options))
  end

  @doc """
  Puts a value where none is. Options and the rest as `put/3`; `{:error, :exists}` where there is one.

      iex> MaculaStorage.Khepri.create([:doc, :create], 1)
      :ok
      iex> MaculaStorage.Khepri.create([:doc, :create], 2)
      {:error, :exists}
  """
  @spec create(path, term, [write_option]) :: :ok | failure
  def create(path, value, options \\ []),
    do: put_if(path, value, [has_data: false], :exists, options)

  @doc """
  Puts a value where one is. Options and the rest as `put/3`; `{:error, :not_found}` where there is none.

      iex> MaculaStorage.Khepri.update([:doc, :nowhere], 2)
      {:error, :not_found}
  """
  @spec update(path, term, [write_option]) :: :ok | failure
  def update(path, value, options \\ []),
    do: put_if(path, value, [has_data: true], :not_found, options)

  @doc """
  Puts a value where the present one is `expected` (`===`), or with `by: :version` has that version.
  Options and the rest as `put/3`; `{:error, :conflict}` when it is not so.

      iex> MaculaStorage.Khepri.put([:doc, :swap], :old)
      iex> MaculaStorage.Khepri.compare_and_swap([:doc, :swap], :old, :new)
      :ok
      iex> MaculaStorage.Khepri.compare_and_swap([:doc, :swap], :old, :newer)
      {:error, :conflict}
      iex> MaculaStorage.Khepri.compare_and_swap([:doc, :swap], 2, :newer, by: :version)
      :ok
  """
  @spec compare_and_swap(path, term, term, [write_option | {:by, :value | :version}]) ::
          :ok | failure
  def compare_and_swap(path, expected, value, options \\ []) do
    {by, options} = Keyword.pop(options, :by, :value)
    unless by in [:value, :version], do: raise(ArgumentError, "expected by: :value or :version")
    put_if(path, value, [{by, expected}], :conflict, options)
  end

  defp put_if(path, value, conditions, otherwise, options) do
    {op, options} = Op.put!(path, value, options)
    guard = {:node, Wire.path!(path), Wire.condition!(conditions)}

    case Engine.txn([guard], [op], [], options) do
      {:ok, {:txn, false, _}} -> {:error, otherwise}
      answer -> done(answer)
    end
  end

  @doc """
  Deletes a node and everything beneath it; one that is not there is fine.

  Durability: `:ok` means synced by a majority. Cost: one sync on each, shared; the subtree is walked.

      iex> MaculaStorage.Khepri.delete([:doc, :nowhere])
      :ok
  """
  @spec delete(path, timeout: timeout) :: :ok | failure
  def delete(path, options \\ []) do
    options = Options.validate!(options, timeout: {5_000, :timeout})
    done(Engine.txn([], [{:delete, Wire.path!(path)}], [], options))
  end

  @doc """
  The value at a path. `{:error, :not_found}` where there is none. Options: `consistency:`, `timeout:`,
  `details: true` for a `MaculaStorage.Khepri.Node`, a parent without data too.

  Cost: linearizable, a message to and from a thread of ours, and one round among the members that reads
  share; local, a call on the caller's scheduler when the value has up to 16 KiB and is in memory, else one
  dirty-I/O call; cached, an ETS lookup (`stale: :ok`, see `MaculaStorage.Cache`).

      iex> MaculaStorage.Khepri.put([:doc, :get], 1)
      iex> MaculaStorage.Khepri.get([:doc, :get], consistency: :local)
      {:ok, 1}
      iex> {:ok, node} = MaculaStorage.Khepri.get([:doc, :get], details: true)
      iex> {node.value, node.children}
      {1, 0}
  """
  @spec get(path, [read_option]) :: {:ok, term} | failure
  def get(path, options \\ [])
  # it costs about an ETS lookup: no list of options is walked
  def get(path, consistency: :cached), do: Cache.cached(path, false)
  def get(path, consistency: :local), do: get_node(path, @local)

  def get(path, options) do
    options = Options.validate!(options, @get_options)

    if options.consistency == :cached and not options.details,
      do: Cache.cached(path, options.stale == :ok),
      else: get_node(path, %{options | consistency: uncached(options.consistency)})
  end

  defp uncached(:cached), do: :local
  defp uncached(consistency), do: consistency

  defp get_node(path, options) do
    case Engine.query({:get, Wire.path!(path)}, options) do
      {:ok, nil} -> {:error, :not_found}
      {:ok, node} when options.details -> {:ok, Wire.node(node)}
      {:ok, {nil, _, _, _, _, _, _}} -> {:error, :not_found}
      {:ok, {value, _, _, _, _, _, _}} -> {:ok, Wire.term(value)}
      failure -> failure
    end
  end

  @doc "Whether there is a node at a path, with data or as a parent. Options and cost as `get/2`."
  @spec exists(path, [read_option]) :: boolean | failure
  def exists(path, options \\ []), do: holds(path, options, fn node -> node != nil end)

  @doc "Whether there is data at a path. Options and cost as `get/2`."
  @spec has_data(path, [read_option]) :: boolean | failure
  def has_data(path, options \\ []),
    do: holds(path, options, fn node -> node != nil and elem(node, 0) != nil end)

  defp holds(path, options, test) do
    options = Options.validate!(options, @read_options)
    with {:ok, node} <- Engine.query({:get, Wire.path!(path)}, options), do: test.(node)
  end

  ## Many nodes

  @doc """
  The names of a node's children in term order; those of the tree's root with `[]`. `limit:` how many at
  most (default all); other options and cost as `get/2`, a page of them at a time.

      iex> MaculaStorage.Khepri.put([:doc_list, :b], 1)
      iex> MaculaStorage.Khepri.put([:doc_list, :a, :x], 1)
      iex> MaculaStorage.Khepri.list([:doc_list])
      {:ok, [:a, :b]}
  """
  @spec list(path | [], [read_option | {:limit, pos_integer | :infinity}]) ::
          {:ok, [term]} | failure
  def list(path, options \\ []) do
    options = Options.validate!(options, [limit: {:infinity, :ttl}] ++ @read_options)
    path = if path != [], do: Wire.path!(path)
    Walk.names(path, options)
  end

  @doc """
  The values of all nodes that match a pattern, as a map by path; nodes without data are left out.
  `where:` conditions on the nodes found; `details: true` for nodes; other options as `get/2`.

  Cost: what begins as the pattern does up to its first `:*` is walked. One call holds at most 64 MiB;
  for more, `fold/4`.

      iex> MaculaStorage.Khepri.put([:doc_many, 1, :port], 80)
      iex> MaculaStorage.Khepri.put([:doc_many, 2, :port], 443)
      iex> MaculaStorage.Khepri.get_many([:doc_many, :*, :port])
      {:ok, %{[:doc_many, 1, :port] => 80, [:doc_many, 2, :port] => 443}}
  """
  @spec get_many(pattern, [read_option | {:where, conditions}]) ::
          {:ok, %{path => term}} | failure
  def get_many(pattern, options \\ []) do
    details = Keyword.get(options, :details, false)

    keep = fn path, node, found ->
      Map.put(found, path, if(details, do: node, else: node.value))
    end

    fold(pattern, %{}, keep, options)
  end

  @doc """
  Folds over the nodes that match, in the order of their paths: `fun.(path, node, acc)`, with nodes as
  `MaculaStorage.Khepri.Node`. Options as `get_many/2`; pages of the walk see the state at different
  moments.

      iex> MaculaStorage.Khepri.put([:doc_fold, :a], 1)
      iex> MaculaStorage.Khepri.put([:doc_fold, :b], 2)
      iex> MaculaStorage.Khepri.fold([:doc_fold, :*], 0, fn _path, node, sum -> sum + node.value end)
      {:ok, 3}
  """
  @spec fold(pattern, acc, (path, Node.t(), acc -> acc), keyword) :: {:ok, acc} | failure
        when acc: term
  def fold(pattern, acc, fun, options \\ []) when is_function(fun, 3) do
    known = [where: {[], :any}, details: {false, :boolean}] ++ @read_options
    options = Options.validate!(options, known)
    wire = Wire.pattern!(pattern, options.where)
    Walk.fold(wire, acc, fun, options)
  end

  @doc "Calls `fun.(path, node)` for all nodes that match. As `fold/4`."
  @spec foreach(pattern, (path, Node.t() -> term), keyword) :: :ok | failure
  def foreach(pattern, fun, options \\ []) when is_function(fun, 2) do
    each = fn path, node, nil ->
      fun.(path, node)
      nil
    end

    with {:ok, nil} <- fold(pattern, nil, each, options), do: :ok
  end

  @doc "What `fun.(path, node)` makes of all nodes that match, by path. As `fold/4`."
  @spec map(pattern, (path, Node.t() -> term), keyword) :: {:ok, %{path => term}} | failure
  def map(pattern, fun, options \\ []) when is_function(fun, 2),
    do: fold(pattern, %{}, &Map.put(&3, &1, fun.(&1, &2)), options)

  @doc "The values of all nodes that match of which `fun.(path, node)` is true, by path. As `fold/4`."
  @spec filter(pattern, (path, Node.t() -> as_boolean(term)), keyword) ::
          {:ok, %{path => term}} | failure
  def filter(pattern, fun, options \\ []) when is_function(fun, 2) do
    keep = fn path, node, kept ->
      if fun.(path, node), do: Map.put(kept, path, node.value), else: kept
    end

    fold(pattern, %{}, keep, options)
  end

  @doc "How many nodes match a pattern, parents without data too. `where:` conditions; others as `get/2`."
  @spec count(pattern, keyword) :: {:ok, non_neg_integer} | failure
  def count(pattern, options \\ []) do
    options = Options.validate!(options, [where: {[], :any}] ++ @read_options)
    Engine.query({:count, Wire.pattern!(pattern, options.where)}, options)
  end

  @doc """
  Puts a value at all nodes that match, at once; how many. `where:`, `timeout:`. Durability as `put/3`.

      iex> MaculaStorage.Khepri.put([:doc_puts, :a], 1)
      iex> MaculaStorage.Khepri.put_many([:doc_puts, :*], 0, where: [value: 1])
      {:ok, 1}
  """
  @spec put_many(pattern, term, where: conditions, timeout: timeout) ::
          {:ok, non_neg_integer} | failure
  def put_many(pattern, value, options \\ []) do
    options = Options.validate!(options, where: {[], :any}, timeout: {5_000, :timeout})
    op = {:put_many, Wire.pattern!(pattern, options.where), Wire.value(value)}
    with {:ok, {:txn, true, [{:put_many, n}]}} <- Engine.txn([], [op], [], options), do: {:ok, n}
  end

  @doc "Deletes all nodes that match and what is beneath them, at once; how many went. As `put_many/3`."
  @spec delete_many(pattern, where: conditions, timeout: timeout) ::
          {:ok, non_neg_integer} | failure
  def delete_many(pattern, options \\ []) do
    options = Options.validate!(options, where: {[], :any}, timeout: {5_000, :timeout})
    op = {:delete_many, Wire.pattern!(pattern, options.where)}

    with {:ok, {:txn, true, [{:delete_many, n}]}} <- Engine.txn([], [op], [], options),
         do: {:ok, n}
  end

  ## Transactions

  @doc """
  Runs `fun.(tx)` in the caller: reads (`MaculaStorage.Khepri.Tx.get/2`) are recorded, writes (`put/3`,
  `delete/2` of `Tx`) are kept, and all is committed at once if nothing that was read has changed; otherwise
  the fun runs again, until `timeout:` (default 5,000). It must do nothing that may not be done twice.

  `{:ok, result}`; `{:error, {:aborted, reason}}` after `abort/1`; `{:error, :conflict}` when time ran out
  among conflicts: nothing was written. Durability as `put/3`. Cost: a
  linearizable read, a dirty-I/O call for each `get` of the fun, one command.

      iex> alias MaculaStorage.Khepri
      iex> Khepri.put([:doc_tx, :n], 1)
      iex> Khepri.transaction(fn tx ->
      ...>   {:ok, n} = Khepri.Tx.get(tx, [:doc_tx, :n])
      ...>   Khepri.Tx.put(tx, [:doc_tx, :n], n + 1)
      ...>   n
      ...> end)
      {:ok, 1}
      iex> Khepri.get([:doc_tx, :n])
      {:ok, 2}
  """
  @spec transaction((Tx.t() -> result), timeout: timeout) ::
          {:ok, result} | {:error, {:aborted, term}} | failure
        when result: term
  def transaction(fun, options \\ []) when is_function(fun, 1) do
    options = Options.validate!(options, timeout: {5_000, :timeout})
    Tx.run(fun, options)
  end

  @doc "Ends the transaction in whose fun it is called: nothing is written."
  @spec abort(term) :: no_return
  def abort(reason), do: throw({Tx, :abort, reason})

  @doc """
  If, then, else as data: when all conditions hold (`{path, conditions}` each), the first operations are done
  at once, otherwise the second ones. Operations: `{:put, path, value}`, `{:put, path, value, options}`,
  `{:delete, path}`, `{:get, path}`. `{:ok, held?, results}`: `:ok` of a put or delete, `{:ok, value}` or
  `{:error, :not_found}` of a get. Durability as `put/3`.

      iex> alias MaculaStorage.Khepri
      iex> Khepri.put([:doc_if, :a], 1)
      iex> Khepri.txn([{[:doc_if, :a], value: 1}], [{:put, [:doc_if, :b], 2}], [{:get, [:doc_if, :a]}])
      {:ok, true, [:ok]}
      iex> Khepri.txn([{[:doc_if, :a], value: 2}], [], [{:get, [:doc_if, :a]}])
      {:ok, false, [{:ok, 1}]}
  """
  @spec txn([{path, conditions}], [tuple], [tuple], timeout: timeout) ::
          {:ok, boolean, list} | failure
  def txn(conditions, then, otherwise \\ [], options \\ []) do
    options = Options.validate!(options, timeout: {5_000, :timeout})
    guards = for {path, held} <- conditions, do: {:node, Wire.path!(path), Wire.condition!(held)}

    with {:ok, {:txn, held?, results}} <-
           Engine.txn(guards, Enum.map(then, &Op.of!/1), Enum.map(otherwise, &Op.of!/1), options),
         do: {:ok, held?, Enum.map(results, &Op.result/1)}
  end

  ## Apps

  @doc "Puts a value of an app: `put([:apps, app, key], value)`."
  @spec app_put(term, term, term) :: :ok | failure
  def app_put(app, key, value), do: put([:apps, app, key], value)

  @doc "The value of an app's key."
  @spec app_get(term, term) :: {:ok, term} | failure
  def app_get(app, key), do: get([:apps, app, key])

  @doc "The names of an app's keys; none of an app that has none."
  @spec app_list_keys(term) :: {:ok, [term]} | failure
  def app_list_keys(app), do: list([:apps, app])

  ## Changes, leases, files

  @doc """
  Sends the calling process every change of what matches a pattern without conditions, as
  `{MaculaStorage.Khepri, ref, revision, events}`: one message per revision, whole and in order, none left
  out. Events are maps: `kind` (`:put`, `:deleted`, `:expired`), `path`, `value` (of a put), `version`.

  Options: `from:` the revision last seen, after which it goes on, on any member (default: now). The answer
  has the revision at which it begins. `{:error, :history_gone}` when the changes after it are not kept any
  more (16 MiB are): read anew. A caller that leaves 1 MiB or 1,000 messages unread is waited for; if it falls
  behind what is kept, `{MaculaStorage.Khepri, ref, :history_gone}` is the last message. `{…, ref, :closed}`
  is, when the state was closed. It ends with its caller.

  Durability: tells what a majority has synced and this node has. Cost: a process each; a change is compared
  with each pattern; what matches is read from the table.

      iex> {:ok, ref, _revision} = MaculaStorage.Khepri.watch([:doc_watch, :*])
      iex> MaculaStorage.Khepri.put([:doc_watch, :a], 1)
      iex> receive do {MaculaStorage.Khepri, ^ref, _revision, events} -> events end
      [%{kind: :put, path: [:doc_watch, :a], value: 1, version: 1}]
      iex> MaculaStorage.Khepri.unwatch(ref)
      :ok
  """
  @spec watch(pattern, from: non_neg_integer) :: {:ok, reference, non_neg_integer} | failure
  def watch(pattern, options \\ []), do: Watches.watch(pattern, options)

  @doc "Ends a watch; the caller's mailbox has no message of it afterwards. Again is fine. Cost: a message."
  @spec unwatch(reference) :: :ok
  defdelegate unwatch(ref), to: Watches, as: :stop

  @doc """
  A lease: what is put with `lease: id` goes when the process dies, when it is revoked, or with this VM, at most
  `:state_session_ttl_ms` (`MaculaStorage.Config`) later. When this VM could not keep its leases alive in time,
  the process gets `{MaculaStorage.Khepri, :lease_lost, id}`: its keys are gone or will be. Options: `timeout:`.

  Durability: as `put/3`. Cost: one command; a VM that has leases writes one more every third of that time.

      iex> {:ok, id} = MaculaStorage.Khepri.lease()
      iex> MaculaStorage.Khepri.put([:doc_lease], node(), lease: id)
      iex> MaculaStorage.Khepri.revoke(id)
      iex> MaculaStorage.Khepri.get([:doc_lease])
      {:error, :not_found}
  """
  @spec lease(pid, timeout: timeout) :: {:ok, pos_integer} | failure
  def lease(pid \\ self(), options \\ []) when is_pid(pid) do
    options = Options.validate!(options, timeout: {10_000, :timeout})
    Leases.lease(pid, options.timeout)
  end

  @doc "Ends a lease: its keys go at once. `{:error, :lease_unknown}` when there is none. Durability and cost as `put/3`."
  @spec revoke(pos_integer, timeout: timeout) :: :ok | failure
  def revoke(id, options \\ []) when is_integer(id) do
    options = Options.validate!(options, timeout: {5_000, :timeout})
    Leases.revoke(id, options.timeout)
  end

  @doc """
  Writes what matches a pattern, or a path and all beneath it (`[]`: everything), as of one moment, to a file for
  `import/2`. Leases and `keep_while:` are of the running cluster and stay out, times to live are kept as times.

  Options: `overwrite: true` (else `{:error, :exists}`), `timeout:` of the read's begin. Durability: `:ok` means
  whole and synced; before that, nothing is there. Cost: reads a page at a time, in the caller.

      iex> MaculaStorage.Khepri.put([:doc_export, :a], 1)
      iex> file = Path.join(System.tmp_dir!(), "doc-#{System.pid()}.state")
      iex> {:ok, %{entries: 1}} = MaculaStorage.Khepri.export([:doc_export], file)
      iex> MaculaStorage.Khepri.delete([:doc_export])
      iex> MaculaStorage.Khepri.import(file)
      {:ok, 1}
      iex> File.rm(file)
      :ok
  """
  @spec export(pattern | [], Path.t(), overwrite: boolean, timeout: timeout) ::
          {:ok, %{entries: non_neg_integer, bytes: non_neg_integer, revision: non_neg_integer}}
          | failure
  def export(pattern, file, options \\ []), do: Dump.export(pattern, file, options)

  @doc """
  Puts what `export/3` wrote; how many nodes. The file is checked whole before anything is changed. What is there
  already is replaced, its lease and conditions with it; what else is there stays. A failure amid the
  writes leaves those before it: import again. `timeout:` of each write of about 1 MiB. Durability as `put/3`.
  """
  @spec import(Path.t(), timeout: timeout) :: {:ok, non_neg_integer} | failure
  def import(file, options \\ []), do: Dump.import(file, options)

  ## The cluster

  @doc """
  Makes one cluster of these Erlang nodes, this one among them. Called on one or on each of them, at once or again,
  there is one cluster, and all are members. Each listens as configured (`MaculaStorage.Config`), with the
  certificates of `MaculaStorage.Authority`; where is told over Erlang distribution.

  Options: `keep: node` when several hold state of their own, which is refused otherwise: its state stays, what the
  others held is set aside in `state/raft-set-aside-*`. `timeout:` of each step (default 60,000).

  Durability: `:ok` means that all are members, synced. Cost: opens a listener; new members copy the state.
  Errors: `%MaculaStorage.Error{kind: :conflict}` names who holds state, `:unreachable` who was not reached,
  `:invalid` what certificate or configuration lacks; `:busy` when others form it for long.

      iex> MaculaStorage.Khepri.start([node()])
      :ok
  """
  @spec start([node], keep: node | nil, timeout: timeout) :: :ok | failure
  def start(nodes, options \\ []) when is_list(nodes),
    do: Cluster.start(nodes, Options.validate!(options, [keep: {nil, :any}] ++ @member_options))

  @doc """
  A text with which one node may join this node's cluster, once, within `ttl:` milliseconds (default 600,000):
  for `join/2` where Erlang distribution does not reach. It is a secret. Durability and cost as `put/3`.
  """
  @spec invite(ttl: pos_integer, timeout: timeout) :: {:ok, String.t()} | failure
  def invite(options \\ []),
    do: Cluster.invite(Options.validate!(options, [ttl: {600_000, :positive}] ++ @member_options))

  @doc """
  Has this node join the cluster of another, or of an `invite/1`; it votes once it has caught up. A node that holds state
  of its own is refused unless `force: true`, which sets that aside. Watches of this node end with `:closed`.
  Durability, cost and errors as `start/2`.
  """
  @spec join(node | String.t(), force: boolean, timeout: timeout) :: :ok | failure
  def join(node_or_invitation, options \\ []),
    do: Cluster.join(node_or_invitation, Options.validate!(options, @force_options))

  @doc """
  Has a member leave, this node by default; also one that is dead. What it held is set aside; it answers `:no_quorum`
  until it joins another cluster, or begins anew by `reset/1`.
  """
  @spec leave(node, timeout: timeout) :: :ok | failure
  def leave(node \\ node(), options \\ []),
    do: Cluster.leave(node, Options.validate!(options, @member_options))

  @doc "Has `new` join, then `old` leave, which may be dead. As `join/2` and `leave/2`."
  @spec replace(node, node, force: boolean, timeout: timeout) :: :ok | failure
  def replace(old, new, options \\ []),
    do: Cluster.replace(old, new, Options.validate!(options, @force_options))

  @doc """
  The members: maps of `node`, `number` (of this incarnation), `address`, `standing` (`:voter` or `:learner`) and
  `leader` (whether it leads). As this node knows them. Cost: a call on the caller's scheduler.

      iex> {:ok, [%{standing: :voter}]} = MaculaStorage.Khepri.members()
  """
  @spec members() :: {:ok, [map]} | failure
  def members, do: Cluster.members()

  @doc "Has a member lead, once it has all that the leader has. `{:error, :timeout}`: it does not, yet."
  @spec transfer_leader(node, timeout: timeout) :: :ok | failure
  def transfer_leader(node, options \\ []),
    do: Cluster.transfer_leader(node, Options.validate!(options, @member_options))

  @doc """
  Waits until somebody leads; who.

      iex> {:ok, _node} = MaculaStorage.Khepri.wait_for_leader()
  """
  @spec wait_for_leader(timeout) :: {:ok, node} | failure
  def wait_for_leader(timeout \\ 5_000), do: Cluster.wait_for_leader(timeout)

  @doc """
  Has this node begin anew, alone and empty: it leaves its cluster first, or with `force: true` does not ask the others.
  What it held is set aside.
  """
  @spec reset(force: boolean, timeout: timeout) :: :ok | failure
  def reset(options \\ []), do: Cluster.reset(force!(options))

  defp force!(options),
    do: Options.validate!(options, [force: {false, :boolean}] ++ @member_options)

  @doc """
  Figures of this node: of the state, `revision`, `nodes`, `live_bytes`, `leases`, `time_ms` (its own clock),
  `history_first` and `history_bytes`; of the node, `node`, `number`, `address`, `cluster`, `leader`, `term`,
  `last`, `applied` and `checkpoint` (entries of the log). Cost: one dirty-I/O call.

      iex> MaculaStorage.Khepri.put([:doc, :status], 1)
      iex> {:ok, status} = MaculaStorage.Khepri.status()
      iex> status.nodes > 0
      true
  """
  @spec status() :: {:ok, map} | failure
  def status, do: Cluster.status()

  @doc """
  Closes this node's state; the next call opens it again, which decides what a failed sync left unknown.
  """
  @spec close() :: :ok | failure
  def close, do: Apps.close_state()

  ## Shared

  defp done({:ok, {:txn, true, _}}), do: :ok
  defp done(failure), do: failure
end
