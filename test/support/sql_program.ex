defmodule MaculaStorage.SQLProgram do
  @moduledoc """
  Random SQL programs whose rows any sound SQLite must agree on.

  Invariant: every row is determined: no order that SQL leaves open, no representative of values that are
  equal (1 and 1.0, `a` and `A` under NOCASE), no sum of floats that are not dyadic, no float whose text
  depends on a version. A program needs nothing newer than SQLite 3.40.
  """

  @type statement :: {sql :: String.t(), params :: list, literal :: String.t()}
  @type step ::
          {:run, statement}
          | {:batch, [statement]}
          | {:transaction, [statement], :commit | :rollback}
          | {:select, sql :: String.t(), width :: pos_integer}

  @texts [
    "",
    "a",
    "A",
    "b",
    "ab",
    "Zoë",
    "日本",
    "it's",
    "10",
    "2.5",
    " x ",
    "%_",
    "say \"hi\"",
    "🌍b"
  ]

  @columns [
    "a.k + a.id",
    "a.k * 3 - a.r",
    "a.s || '-' || a.k",
    "upper(a.s)",
    "length(a.s)",
    "substr(a.s, 1, 2)",
    "coalesce(a.v, a.k)",
    "a.k BETWEEN 5 AND 20",
    "a.s LIKE 'a%'",
    "a.v IS NULL",
    "CASE WHEN a.k > 10 THEN a.s ELSE a.r END",
    "typeof(a.v)",
    "quote(a.s)",
    "CASE typeof(a.v) WHEN 'real' THEN a.v ELSE hex(a.v) END",
    "abs(a.k)",
    "a.k % 7",
    "a.k / 4",
    "a.k & 6",
    "a.k << 2",
    "-a.k",
    "NOT a.k",
    "instr(a.s, 'b')",
    "replace(a.s, 'a', 'xx')",
    "trim(a.s)",
    "nullif(a.k, 3)",
    "iif(a.k > a.r, 1, 'no')",
    "max(a.k, 5)",
    "round(a.r)",
    "CAST(a.r AS INTEGER)",
    "CASE typeof(a.v) WHEN 'real' THEN a.v ELSE CAST(a.v AS TEXT) END",
    "CASE typeof(a.v) WHEN 'real' THEN a.v ELSE CAST(a.v AS BLOB) END",
    "CAST(a.s AS REAL)",
    "unicode(a.s)",
    "a.s < 'b'",
    "a.v > a.k",
    "a.k IN (1, 2, 3, NULL)",
    "a.s GLOB '*b*'",
    "printf('%05d', a.k)",
    "a.k IS DISTINCT FROM 5",
    "a.v",
    "a.s",
    "a.r",
    "a.k",
    "a.id",
    "(SELECT count(*) FROM t2 b WHERE b.t1_id = a.id)",
    "(SELECT max(b.n) FROM t2 b WHERE b.t1_id <= a.id)",
    "EXISTS (SELECT 1 FROM t2 b WHERE b.n = a.k)"
  ]

  @predicates [
    "1",
    "a.k > 5",
    "a.id % 2 = 0",
    "a.s LIKE '%a%'",
    "a.v IS NOT NULL",
    "a.r < 3",
    "a.k IN (SELECT n FROM t2)",
    "a.s >= 'a' AND a.s < 'c'",
    "a.k BETWEEN 0 AND 30 OR a.v IS NULL",
    "EXISTS (SELECT 1 FROM t2 b WHERE b.t1_id = a.id)",
    "typeof(a.v) IN ('text', 'real')",
    "a.k + 1 = 8",
    "NOT (a.s = 'a')",
    "a.id = 7"
  ]

  @aggregates [
    "count(*)",
    "count(a.v)",
    "count(DISTINCT a.k)",
    "count(DISTINCT a.s)",
    "sum(a.k)",
    "total(a.r)",
    "avg(a.k)",
    "min(a.k)",
    "max(a.r)",
    "min(a.s || '')",
    "max(length(a.s))",
    "sum(a.k) FILTER (WHERE a.id % 2)"
  ]

  @groups ["a.k % 3", "a.k", "typeof(a.v)", "length(a.s)", "a.s || ''", "a.k > 10"]

  @windows [
    "row_number() OVER (PARTITION BY a.k % 3 ORDER BY a.r, a.id)",
    "rank() OVER (ORDER BY a.k)",
    "dense_rank() OVER (PARTITION BY typeof(a.v) ORDER BY a.k DESC)",
    "percent_rank() OVER (ORDER BY a.k)",
    "cume_dist() OVER (ORDER BY a.r)",
    "ntile(3) OVER (ORDER BY a.id)",
    "lag(a.s, 1, 'none') OVER (ORDER BY a.id)",
    "lead(a.v) OVER (PARTITION BY a.k > 10 ORDER BY a.id)",
    "first_value(a.v) OVER (ORDER BY a.id ROWS BETWEEN 2 PRECEDING AND CURRENT ROW)",
    "nth_value(a.s, 2) OVER (ORDER BY a.id)",
    "sum(a.k) OVER (ORDER BY a.id ROWS BETWEEN 2 PRECEDING AND 1 FOLLOWING)",
    "sum(a.r) OVER (ORDER BY a.id RANGE BETWEEN 3 PRECEDING AND 3 FOLLOWING)",
    "count(*) OVER (ORDER BY a.k GROUPS BETWEEN 1 PRECEDING AND CURRENT ROW EXCLUDE TIES)",
    "avg(a.k) OVER (PARTITION BY length(a.s))",
    "group_concat(a.id, ',') OVER (ORDER BY a.id ROWS 3 PRECEDING)",
    "max(a.k) FILTER (WHERE a.id % 2) OVER (ORDER BY a.id)"
  ]

  @doc "A program, with the random numbers of this process."
  @spec random() :: [step]
  def random do
    schema() ++
      for(_ <- 1..3, do: {:run, insert()}) ++
      Enum.flat_map(1..5, fn _ -> [change(), change(), select()] end) ++
      for(_ <- 1..4, do: select()) ++ Enum.map(["t1", "t2", "log"], &all/1)
  end

  @doc "What takes away all that a program leaves."
  @spec drops() :: [String.t()]
  def drops do
    ["DROP VIEW IF EXISTS seen" | for(t <- ["log", "t2", "t1"], do: "DROP TABLE IF EXISTS #{t}")]
  end

  defp schema do
    k = pick(["INTEGER", "INT", "NUMERIC", "", "REAL", "TEXT"])
    # of a text that is a number no sum is taken
    s = pick(["TEXT", "TEXT COLLATE NOCASE", "VARCHAR(9) DEFAULT 'dflt'", ""])
    v = pick(["", "BLOB", "NUMERIC", "TEXT", "INTEGER", "REAL"])
    r = pick(["REAL", "NUMERIC", "DOUBLE PRECISION CHECK (r < 40)"])
    generated = pick(["", ", g AS (k * 2 + 1)", ", g TEXT AS (s || '!') STORED"])

    t1 =
      if one_in(4),
        do:
          "CREATE TABLE t1 (id INTEGER PRIMARY KEY, k INTEGER, r REAL, s TEXT, v ANY#{generated_strict(generated)}) STRICT",
        else:
          "CREATE TABLE t1 (id INTEGER PRIMARY KEY, k #{k}, r #{r}, s #{s}, v #{v}#{generated})#{pick(["", " WITHOUT ROWID"])}"

    t2 =
      "CREATE TABLE t2 (id INTEGER PRIMARY KEY, t1_id REFERENCES t1 (id) ON DELETE CASCADE ON UPDATE CASCADE, " <>
        "n INTEGER NOT NULL DEFAULT 3, s TEXT CHECK (length(s) < 5))"

    more = [
      "CREATE INDEX i1 ON t1 (k)",
      "CREATE INDEX i2 ON t1 (s, k DESC) WHERE k > 3",
      "CREATE INDEX i3 ON t1 (length(s))",
      "CREATE INDEX i4 ON t2 (t1_id)",
      "CREATE VIEW seen AS SELECT a.id, a.k, b.n FROM t1 a LEFT JOIN t2 b ON b.t1_id = a.id",
      "CREATE TRIGGER logs AFTER UPDATE OF k ON t1 BEGIN INSERT INTO log VALUES (old.id, old.k, new.k); END",
      "CREATE TRIGGER gone AFTER DELETE ON t1 WHEN old.id > 9 BEGIN INSERT INTO log VALUES (old.id, 'gone', NULL); END"
    ]

    for sql <- [
          t1,
          t2,
          "CREATE TABLE log (id, old, new)" | Enum.filter(more, fn _ -> one_in(2) end)
        ],
        do: {:run, {sql, [], sql}}
  end

  defp generated_strict(", g AS" <> _), do: ", g INTEGER AS (k * 2 + 1)"
  defp generated_strict(other), do: other

  defp change do
    case :rand.uniform(10) do
      n when n <= 5 ->
        {:run, insert_or_other()}

      n when n <= 7 ->
        {:batch, for(_ <- 1..:rand.uniform(3), do: harmless())}

      _ ->
        {:transaction, for(_ <- 1..:rand.uniform(4), do: insert_or_other()),
         pick([:commit, :rollback])}
    end
  end

  defp insert_or_other, do: if(one_in(2), do: insert(), else: other())

  # may fail: a key that is there, a check, a type of a STRICT table, a foreign key
  defp insert do
    case :rand.uniform(4) do
      1 ->
        values("INSERT INTO t2 (id, t1_id, n, s) VALUES", [[maybe(id()), id(), small(), text()]])

      2 ->
        values("INSERT INTO t1 (id, k, r, s, v) VALUES", [row()])

      _ ->
        values(
          "INSERT OR #{pick(["REPLACE", "IGNORE", "ABORT"])} INTO t1 (id, k, r, s, v) VALUES",
          for(_ <- 1..:rand.uniform(5), do: row())
        )
    end
  end

  # cannot fail, so that a batch of them is the same as each of them
  defp harmless do
    case :rand.uniform(3) do
      1 ->
        plain(
          "DELETE FROM t1 AS a WHERE #{pick(@predicates)} AND a.id % 3 = #{:rand.uniform(3) - 1}"
        )

      2 ->
        plain("DELETE FROM t2 WHERE n > #{small()}")

      3 ->
        plain("UPDATE t2 SET n = n + 1 WHERE id > #{id()}")
    end
  end

  defp other do
    case :rand.uniform(9) do
      1 ->
        plain("UPDATE t1 AS a SET k = a.k + 1 WHERE #{pick(@predicates)}")

      2 ->
        values("UPDATE t1 SET v = ? WHERE id = ?", :places, [any(), id()])

      3 ->
        plain("UPDATE OR IGNORE t1 SET id = id + 100 WHERE id = #{id()}")

      4 ->
        plain(
          "UPDATE t1 SET k = b.n FROM (SELECT t1_id, max(n) AS n FROM t2 GROUP BY t1_id) b WHERE b.t1_id = t1.id"
        )

      5 ->
        plain(
          "INSERT INTO t1 (id, k, s) VALUES (#{id()}, #{small()}, 'up') ON CONFLICT (id) DO UPDATE SET k = coalesce(k, 0) + excluded.k, s = excluded.s || 'd'"
        )

      6 ->
        plain(
          "INSERT OR IGNORE INTO t2 (id, t1_id, n) SELECT id + 50, id, id % 7 FROM t1 ORDER BY id"
        )

      7 ->
        plain("INSERT INTO t2 DEFAULT VALUES")

      8 ->
        harmless()

      9 ->
        values("DELETE FROM t1 WHERE id BETWEEN ? AND ?", :places, Enum.sort([id(), id()]))
    end
  end

  defp row, do: [maybe(id()), maybe(small()), maybe(dyadic()), maybe(text()), any()]
  defp id, do: :rand.uniform(20)
  defp small, do: :rand.uniform(80) - 20
  defp dyadic, do: (:rand.uniform(800) - 401) / 8
  defp text, do: pick(@texts)
  defp maybe(value), do: if(one_in(7), do: nil, else: value)

  defp any do
    pick([
      fn -> nil end,
      &small/0,
      &dyadic/0,
      &text/0,
      fn -> pick([0x7FFF_FFFF_FFFF_FFFF, -0x8000_0000_0000_0000, 4_294_967_296]) end,
      fn -> pick([1.0e300, 2.5e-7, -1.5e20]) end,
      fn -> {:blob, pick(["", <<0, 255>>, "text", <<0>>])} end,
      fn -> "nul" <> <<0>> <> "inside" end
    ]).()
  end

  defp plain(sql), do: {sql, [], sql}

  # rows of values, as literals or as parameters
  defp values(prefix, rows) do
    {literal, places} =
      {Enum.map_join(rows, ", ", &"(#{Enum.map_join(&1, ", ", fn v -> literal(v) end)})"),
       Enum.map_join(rows, ", ", &"(#{Enum.map_join(&1, ", ", fn _ -> "?" end)})")}

    if one_in(2),
      do: {"#{prefix} #{places}", Enum.concat(rows), "#{prefix} #{literal}"},
      else: plain("#{prefix} #{literal}")
  end

  defp values(sql, :places, params) do
    [first | rest] = String.split(sql, "?")

    literal =
      first <> Enum.map_join(Enum.zip(params, rest), fn {v, part} -> literal(v) <> part end)

    {sql, params, literal}
  end

  defp literal(nil), do: "NULL"
  defp literal(value) when is_integer(value), do: "#{value}"
  defp literal(value) when is_float(value), do: :erlang.float_to_binary(value, [:short])
  defp literal({:blob, bytes}), do: "x'#{Base.encode16(bytes)}'"

  defp literal(text) do
    if text =~ <<0>>,
      do: "CAST(x'#{Base.encode16(text)}' AS TEXT)",
      else: "'#{String.replace(text, "'", "''")}'"
  end

  defp all("t1"), do: {:select, "SELECT id, k, r, s, v FROM t1", 5}
  defp all("t2"), do: {:select, "SELECT id, t1_id, n, s FROM t2", 4}
  defp all("log"), do: {:select, "SELECT id, old, new FROM log", 3}

  defp select do
    case :rand.uniform(8) do
      1 ->
        wide(@columns, "FROM t1 a WHERE #{pick(@predicates)}")

      2 ->
        grouped()

      3 ->
        wide(@windows, "FROM t1 a WHERE #{pick(@predicates)}")

      4 ->
        wide(@aggregates, "FROM t1 a WHERE #{pick(@predicates)}")

      5 ->
        wide(
          ["b.n", "b.s", "b.id" | @columns],
          "FROM t1 a #{pick(["JOIN", "LEFT JOIN"])} t2 b ON b.t1_id = a.id WHERE #{pick(@predicates)}"
        )

      6 ->
        compound()

      7 ->
        limited()

      8 ->
        recursive()
    end
  end

  defp wide(columns, from) do
    columns = columns |> Enum.take_random(:rand.uniform(5))
    {:select, "SELECT #{Enum.join(columns, ", ")} #{from}", length(columns)}
  end

  defp grouped do
    group = pick(@groups)
    having = pick(["", " HAVING count(*) > 1", " HAVING sum(a.k) > 10"])

    {:select,
     "SELECT #{group}, #{pick(@aggregates)}, #{pick(@aggregates)} FROM t1 a WHERE #{pick(@predicates)} GROUP BY #{group}#{having}",
     3}
  end

  defp compound do
    [one, two] =
      for _ <- 1..2, do: "SELECT length(a.s), a.id % 5 FROM t1 a WHERE #{pick(@predicates)}"

    {:select, "#{one} #{pick(["UNION", "UNION ALL", "EXCEPT", "INTERSECT"])} #{two}", 2}
  end

  defp limited do
    columns = Enum.take_random(@columns, 3) |> Enum.join(", ")

    order =
      pick([
        "a.id",
        "a.k, a.id DESC",
        "a.r DESC NULLS LAST, a.id",
        "a.s COLLATE BINARY, a.id",
        "a.s COLLATE NOCASE DESC, a.id"
      ])

    {:select,
     "SELECT #{columns} FROM t1 a WHERE #{pick(@predicates)} ORDER BY #{order} LIMIT #{:rand.uniform(6)} OFFSET #{:rand.uniform(3) - 1}",
     3}
  end

  defp recursive do
    pick([
      {:select,
       "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 10) SELECT c.n, count(a.id) FROM c LEFT JOIN t1 a ON a.id = c.n GROUP BY c.n",
       2},
      {:select,
       "WITH x AS MATERIALIZED (SELECT id, k FROM t1 WHERE k > 2) SELECT x.id, y.id, x.k - y.k FROM x JOIN x y ON y.id > x.id",
       3},
      {:select,
       "SELECT a.id, b.n FROM t1 a CROSS JOIN (SELECT DISTINCT n FROM t2) b WHERE (a.id + b.n) % 3 = 0",
       2},
      {:select,
       "SELECT * FROM (VALUES (1, 'a'), (2, NULL), (3, x'00')) WHERE column1 IN (SELECT id FROM t1)",
       2}
    ])
  end

  defp pick(list), do: Enum.random(list)
  defp one_in(n), do: :rand.uniform(n) == 1
end
