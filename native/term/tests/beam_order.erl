%% Random pairs of terms with the BEAM's own verdict on them, for tests/beam.rs; and the check that
%% what Rust made of them is the same term again. Every run with the same seed makes the same pairs.
-module(beam_order).
-export([write/3, check/2]).

%% File: <<SizeA:32, EtfA, SizeB:32, EtfB, Order:8, Same:8>>... with Order 0 for <, 1 for ==, 2 for >.
write(File, Seed, Count) ->
    rand:seed(exsss, Seed),
    Made = fixed_pairs() ++ [random_pair() || _ <- lists:seq(1, Count)],
    Pairs = [Pair || {A, B} = Pair <- Made, has_order(A), has_order(B)],
    ok = file:write_file(File, [record(A, B) || {A, B} <- Pairs]),
    io:format("otp=~s pairs=~w~n", [erlang:system_info(otp_release), length(Pairs)]).

record(A, B) ->
    EtfA = etf(A),
    EtfB = etf(B),
    [<<(byte_size(EtfA)):32>>, EtfA, <<(byte_size(EtfB)):32>>, EtfB, order(A, B), bool(same(A, B))].

%% From OTP 26 on, the atoms that are keys of a small map are sorted by their number in the running VM,
%% and maps that are themselves in keys of maps are compared in that order: another VM orders such
%% terms otherwise (seen on OTP 27), so they have no order that bytes could follow.
has_order(Term) ->
    list_to_integer(erlang:system_info(otp_release)) < 26 orelse not in_keys(Term).

in_keys(M) when is_map(M) ->
    lists:any(fun({K, V}) -> has_map_of_atoms(K) orelse in_keys(V) end, maps:to_list(M));
in_keys([H | T]) -> in_keys(H) orelse in_keys(T);
in_keys(T) when is_tuple(T) -> in_keys(tuple_to_list(T));
in_keys(_) -> false.

has_map_of_atoms(M) when is_map(M) ->
    lists:any(fun({K, V}) -> is_atom(K) orelse has_map_of_atoms(K) orelse has_map_of_atoms(V) end, maps:to_list(M));
has_map_of_atoms([H | T]) -> has_map_of_atoms(H) orelse has_map_of_atoms(T);
has_map_of_atoms(T) when is_tuple(T) -> has_map_of_atoms(tuple_to_list(T));
has_map_of_atoms(_) -> false.

order(A, B) when A < B -> 0;
order(A, B) when A == B -> 1;
order(A, B) when A > B -> 2.

bool(true) -> 1;
bool(false) -> 0.

etf(T) -> term_to_binary(T, pick([[], [], [{minor_version, 2}], [{minor_version, 1}], [{minor_version, 0}]])).

%% =:= and the same zeros: OTP before 27 does not tell -0.0 from 0.0.
same(A, B) -> A =:= B andalso zeros(A) =:= zeros(B).

zeros(F) when is_float(F) -> <<F/float>>;
zeros(T) when is_tuple(T) -> {t, zeros(tuple_to_list(T))};
zeros([H | T]) -> [zeros(H) | zeros(T)];
zeros(M) when is_map(M) -> {m, [{zeros(K), zeros(V)} || {K, V} <- lists:sort(maps:to_list(M))]};
zeros(_) -> x.

%% Files: originals as written above; <<Size:32, Etf>>... for each term of each pair.
check(Pairs, Decoded) ->
    {ok, A} = file:read_file(Pairs),
    {ok, B} = file:read_file(Decoded),
    io:format("same=~w~n", [check(A, B, 0)]).

check(<<>>, <<>>, Count) -> Count;
check(<<S1:32, A:S1/binary, S2:32, B:S2/binary, _:16, Rest/binary>>,
      <<S3:32, C:S3/binary, S4:32, D:S4/binary, Rest2/binary>>, Count) ->
    same_term(A, C),
    same_term(B, D),
    check(Rest, Rest2, Count + 2).

same_term(Before, After) ->
    case same(binary_to_term(Before), binary_to_term(After)) of
        true -> ok;
        false -> io:format("not the same: before=~w after=~w~n", [Before, After]), halt(1)
    end.

random_pair() ->
    A = term(rand:uniform(6) - 1, key_ok),
    case rand:uniform(10) of
        N when N =< 3 -> {A, term(rand:uniform(6) - 1, key_ok)};
        N when N =< 8 -> {A, mutate(A)};
        _ -> {A, mutate(mutate(A))}
    end.

pick(List) -> lists:nth(rand:uniform(length(List)), List).

several(Max, Make) -> [Make() || _ <- lists:seq(1, rand:uniform(Max + 1) - 1)].

term(0, _) -> scalar();
term(Depth, _) ->
    Inner = fun() -> term(rand:uniform(Depth) - 1, key_ok) end,
    case rand:uniform(12) of
        N when N =< 3 -> list_to_tuple(several(4, Inner));
        N when N =< 5 -> several(5, Inner);
        6 -> improper(several(3, Inner), Inner());
        N when N =< 9 -> map([{Inner(), Inner()} || _ <- lists:seq(1, rand:uniform(5) - 1)]);
        10 -> big_map();
        11 -> local_fun([Inner() || _ <- lists:seq(1, rand:uniform(3) - 1)]);
        12 -> scalar()
    end.

improper([], Tail) -> Tail;
improper(List, Tail) -> List ++ Tail.

%% Before OTP 27 a map has one key for -0.0 and 0.0: not what is specified here, so not tested there.
map(Pairs) ->
    case list_to_integer(erlang:system_info(otp_release)) >= 27 of
        true -> maps:from_list(Pairs);
        false -> maps:from_list([{plus(K), V} || {K, V} <- Pairs])
    end.

plus(F) when is_float(F) -> F + 0.0; % -0.0 + 0.0 is 0.0; OTP 25 keeps -0.0 in abs/1, and where a literal is ==
plus(T) when is_tuple(T) -> list_to_tuple(plus(tuple_to_list(T)));
plus([H | T]) -> [plus(H) | plus(T)];
plus(M) when is_map(M) -> maps:from_list([{plus(K), plus(V)} || {K, V} <- maps:to_list(M)]);
plus(F) when is_function(F) ->
    case erlang:fun_info(F, type) of
        {type, local} -> {env, Env} = erlang:fun_info(F, env), local_fun(plus(Env));
        _ -> F
    end;
plus(T) -> T.

%% More than 32 keys: the other in-memory form.
big_map() ->
    Size = 30 + rand:uniform(10),
    From = rand:uniform(5),
    maps:from_list([{int_or_float(I), pick([1, 1.0, a, 2])} || I <- lists:seq(From, From + Size)]).

int_or_float(I) -> case rand:uniform(6) of 1 -> float(I); _ -> I end.

scalar() ->
    case rand:uniform(11) of
        N when N =< 4 -> number();
        N when N =< 6 -> atom();
        N when N =< 8 -> bits();
        9 -> pick([[], {}, #{}, fun lists:map/2, fun lists:map/3, fun lists:all/2, fun erlang:abs/1, fun a:b/255]);
        10 -> pick([pid(), port(), ref(), self(), make_ref(), hd(erlang:ports())]);
        11 -> pick(["abc", "abd", "ab", [1, 2], [1, 2.0], [1 | 2], [256], lists:seq(0, 255)])
    end.

number() ->
    case rand:uniform(9) of
        1 -> rand:uniform(5) - 3;
        2 -> pick([0, 0.0, -0.0, 1, 1.0, -1, -1.0, 0.5, -0.5, 1.5]);
        3 -> near_power();
        4 -> try float(near_power()) catch error:_ -> 1.0 end;
        5 -> random_float();
        6 -> (rand:uniform(1 bsl 64) - (1 bsl 63));
        7 -> pick([1, -1]) * (rand:uniform(255) bsl (8 * rand:uniform(140)));
        8 -> pick([1.0e308, -1.0e308, 1.7976931348623157e308, 5.0e-324, -5.0e-324, 2.2250738585072014e-308,
                   trunc(1.0e308), trunc(1.0e308) + 1, 1 bsl 1024, 1 bsl 1024 - 1, 1 bsl 2100, -(1 bsl 2100)]);
        9 -> pick([1, -1]) * (rand:uniform(2000000) / pick([1, 2, 4, 8, 1000, 1024, 65536]))
    end.

near_power() ->
    Power = pick([0, 1, 6, 7, 8, 15, 16, 23, 31, 32, 47, 51, 52, 53, 54, 55, 58, 59, 60, 61, 62, 63, 64, 65, 71, 72,
                  127, 128, 512, 1000, 1022, 1023]),
    pick([1, -1]) * ((1 bsl Power) + pick([-1025, -1024, -513, -512, -257, -256, -129, -2, -1, 0, 1, 2, 128, 255,
                                          256, 257, 511, 512, 1023, 1024, 2048])).

random_float() ->
    case <<(rand:uniform(1 bsl 64) - 1):64>> of
        <<F/float>> -> F;
        _ -> 1.0
    end.

atom() ->
    pick([a, b, ab, 'a b', '', 'A', nil, true, false, undefined, 'é', 'ÿ', 'ab\x{0}', 'a\x{0}b', 'a\x{1}', 'a\x{2}b',
          'a\x{3}', 'ā', '日本', '𝄞', '\x{fffd}', '\x{d7ff}', 'zz@host', list_to_atom(lists:duplicate(255, $x)),
          list_to_atom(lists:duplicate(255, 16#e9)), list_to_atom(lists:duplicate(255, 16#10300)),
          list_to_atom(lists:duplicate(255, 16#10301))]).

bits() ->
    Bytes = << <<(pick([0, 1, 2, 3, 4, 127, 128, 254, 255, $a, $b])):8>> || _ <- several(9, fun() -> x end) >>,
    case rand:uniform(2) of
        1 -> Bytes;
        2 -> Size = rand:uniform(8) - 1, <<Bytes/binary, (rand:uniform(256) - 1):Size>>
    end.

external(Tag, Parts) -> binary_to_term(iolist_to_binary([131, Tag | Parts])).

node_name() -> Name = pick([<<"a@b">>, <<"b@b">>, <<"a@bb">>, <<"é@b"/utf8>>]), [119, byte_size(Name), Name].

word() -> pick([0, 1, 2, 255, 256, 16#7fffffff, 16#80000000, 16#ffffffff]).

pid() -> external(88, [node_name(), <<(word()):32, (word()):32, (word()):32>>]).

port() -> external(120, [node_name(), <<(word()):32, (word()):32, (word()):32>>]).

ref() ->
    ref(pick([[word(), word(), word()], [word(), word(), word(), word(), 1]])).

%% The BEAM makes refs of three and five words. Others are =:= when the missing words are zero, but hash
%% to other places in a map of more than 32 keys, so they are in no random term.
ref(Words) ->
    external(90, [<<(length(Words)):16>>, node_name(), <<(word()):32>>, [<<W:32>> || W <- Words]]).

short_refs() ->
    [external(90, [<<(length(Words)):16>>, 119, 3, "a@b", <<1:32>>, [<<W:32>> || W <- Words]]) ||
        Words <- [[0], [1], [1, 0], [1, 0, 0], [1, 2], [1, 2, 0], [0, 0, 0, 1], [0, 0, 0, 1, 0], [1, 2, 0, 0, 0], [0, 0, 1]]].

%% Funs of modules that are not loaded, as they come from a disk; what is not compared is the same.
local_fun(Env) ->
    Module = pick([<<"m1">>, <<"m2">>, <<"lists">>]),
    Index = pick([0, 1, 2, 300]),
    OldUniq = pick([0, 1, 70000, 100000000, -5]),
    Held = [begin <<131, Rest/binary>> = term_to_binary(T), Rest end || T <- Env],
    Body = iolist_to_binary([1, <<Index:128, Index:32, (length(Env)):32>>, 119, byte_size(Module), Module,
                             98, <<Index:32>>, 98, <<OldUniq:32/signed>>,
                             88, node_name(), <<(word()):32, 0:32, 1:32>>, Held]),
    external(112, [<<(byte_size(Body) + 4):32>>, Body]).

%% A term that differs little, or only in how a number is written.
mutate(I) when is_integer(I) ->
    pick([I, I + 1, I - 1, -I, try float(I) catch error:_ -> I end, I * 2]);
mutate(F) when is_float(F), F == -576460752303423488.0 -> F; % trunc/1 of OTP 25 makes an odd bignum of it
mutate(F) when is_float(F) ->
    <<Bits:64>> = <<F/float>>,
    Near = fun(N) -> case <<N:64>> of <<G/float>> -> G; _ -> F end end,
    pick([F, trunc(F), Near(Bits + 1), case Bits of 0 -> F; _ -> Near(Bits - 1) end, -F, trunc(F) + 1, trunc(F) - 1]);
mutate(T) when is_tuple(T), tuple_size(T) > 0 ->
    case rand:uniform(8) of
        1 -> erlang:append_element(T, scalar());
        2 -> list_to_tuple(tl(tuple_to_list(T)));
        _ -> N = rand:uniform(tuple_size(T)), setelement(N, T, mutate(element(N, T)))
    end;
mutate([_ | _] = L) -> mutate_list(L);
mutate(M) when is_map(M), map_size(M) > 0 ->
    {K, V} = pick(maps:to_list(M)),
    case rand:uniform(5) of
        1 -> maps:remove(K, M);
        2 -> map([{mutate(K), V} | maps:to_list(maps:remove(K, M))]);
        3 -> map([{scalar(), V} | maps:to_list(maps:remove(K, M))]);
        _ -> M#{K := mutate(V)}
    end;
mutate(B) when is_bitstring(B) ->
    Size = bit_size(B),
    case rand:uniform(4) of
        1 -> <<B/bits, (rand:uniform(2) - 1):1>>;
        2 when Size > 0 -> Less = Size - 1, <<C:Less/bits, _:1>> = B, C;
        3 when Size > 0 -> Less = Size - 1, <<C:Less/bits, X:1>> = B, <<C/bits, (1 - X):1>>;
        _ -> <<B/bits, 0>>
    end;
mutate(T) when is_function(T); is_pid(T); is_reference(T); is_port(T) ->
    pick([T, scalar(), pid(), port(), ref(), local_fun([1]), local_fun([1.0])]);
mutate(_) -> scalar().

mutate_list(L) ->
    case rand:uniform(6) of
        1 -> tl(L);
        2 -> [scalar() | L];
        3 -> [mutate(hd(L)) | tl(L)];
        4 -> [hd(L) | scalar()];
        _ -> [hd(L) | case tl(L) of [_ | _] = T -> mutate_list(T); T -> mutate(T) end]
    end.

%% Every pair of some terms that are hard to order.
fixed_pairs() ->
    Terms = [0, 0.0, -0.0, 1, 1.0, -1, -1.0, {1, b}, {1.0, a}, {1.0, b}, {1, 1.0}, {1.0, 1}, [1], [1.0], [1 | 2], [1, 2],
             [1 | 2.0], [1 | a], [], [[]], #{}, #{1 => a}, #{1.0 => a}, #{1 => 2, 1.0 => 3}, #{1 => 2.0, 1.0 => 3},
             #{1 => 2, 1.0 => 3.0}, #{a => 1}, #{a => 1.0}, #{a => 0.0}, #{a => -0.0}, #{2 => a}, #{0.5 => a},
             #{1 bsl 70 => a}, #{-1.5 => a}, #{#{1 => 1} => 1}, #{#{1 => 1.0} => 1}, #{#{1.0 => 1} => 1}, #{[1, 2.0] => 1},
             #{{1} => 1}, #{{1.0} => 1}, {#{1 => 1}, 1.0}, {#{1 => 1.0}, 1},
             a, aa, '', "", "a", <<>>, <<0>>, <<0:1>>, <<1:1>>, <<128>>, <<128, 0>>, <<1>>, <<2>>, <<3>>, <<0, 0>>, <<1:2>>,
             1 bsl 53, float(1 bsl 53), (1 bsl 53) + 1, (1 bsl 53) - 1, float((1 bsl 53) - 1), 1 bsl 59, float(1 bsl 59),
             1 bsl 60, float(1 bsl 60), (1 bsl 63) - 1, 1 bsl 63, float(1 bsl 63), 1 bsl 64, float(1 bsl 64), (1 bsl 64) - 1,
             -(1 bsl 63), -(1 bsl 63) - 1, -float(1 bsl 63), -(1 bsl 64), -float(1 bsl 64), 1.0e308, trunc(1.0e308),
             trunc(1.0e308) - 1, 1 bsl 1024, 5.0e-324, -5.0e-324, 0.1, 0.5, 127, 128, 255, 256, 4503599627370495.5,
             4503599627370495, 4503599627370496, self(), make_ref(), hd(erlang:ports()), fun lists:map/2,
             local_fun([]), local_fun([1]), local_fun([1.0]), {}, {a}, {a, a} | short_refs()],
    [{A, B} || A <- Terms, B <- Terms].
