"""A stand-in for StarCraft II: a process that PySC2 launches as the game, for two mini-games.

It speaks the game's protocol (https://github.com/Blizzard/s2client-proto) over a websocket, for
one player, feature layers and the maps MoveToBeacon and CollectMineralShards. Their rules (where
things appear, rewards, time limits) are those of
https://github.com/google-deepmind/pysc2/blob/master/docs/mini_games.md. Marines walk straight, and
through each other. The camera never moves.

`install` lays it where PySC2 looks for the game. Its map files are JSON, with what goes wrong too.
"""

import base64
import contextlib
import hashlib
import json
import math
import os
import random
import shlex
import socket
import struct
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]

LOOPS_PER_SECOND = 16  # of the maps' time limits: 120 s are 240 agent steps of 8 loops
MARINE_SPEED = 2.25 / LOOPS_PER_SECOND  # a loop; 3.15 a second at "faster" speed (Liquipedia)
MARINE_RADIUS = 0.375  # Liquipedia
SHARDS = 20  # mini_games.md
BEACON_DISTANCE_AT_START, BEACON_DISTANCE, SHARD_DISTANCE = 4.0, 5.0, 2.0  # mini_games.md
# Not published. With these, the scripted player scores about 26 on MoveToBeacon, which is what
# published agents reach on the real map.
FIELD = (22.0, 16.0)
BEACON_RADIUS = 1.5
SHARD_RADIUS, SHARD_REACH = 0.25, 1.0
MAP_SIDE, CAMERA_WIDTH = 64, 24.0
MAX_ORDERS = 32

MARINE, BEACON, SHARD = 48, 317, 1680  # unit types
SELF, NEUTRAL = 1, 3
STOP, HOLD, SMART, MOVE, PATROL, ATTACK = 4, 18, 1, 16, 17, 23  # abilities
GENERAL = {3665: STOP, 3793: HOLD, 3794: MOVE, 3795: PATROL, 3674: ATTACK}
WALKS, STANDS = (SMART, MOVE, PATROL, ATTACK), (STOP, HOLD)


def install(path, **settings):
    """Lay the stand-in and its two maps into an empty directory, to be named by SC2PATH.

    Settings of the maps: `seconds` of the time limit (120), `crash_at_loop`, `hang_at_loop`, and
    `failures`, the number of processes that do so (1).
    """
    program = path / "Versions" / "Base98310" / "SC2_x64"
    program.parent.mkdir(parents=True)
    command = shlex.join([sys.executable, __file__])
    program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    program.chmod(0o700)
    maps = path / "Maps" / "mini_games"
    maps.mkdir(parents=True)
    for name in ("MoveToBeacon", "CollectMineralShards"):
        (maps / f"{name}.SC2Map").write_text(json.dumps({"map": name, "seconds": 120, **settings}))


class Marine:
    def __init__(self, x, y):
        self.x, self.y, self.orders, self.is_selected = x, y, [], False

    def walk(self):
        if not self.orders:
            return
        x, y = self.orders[0]
        left = math.dist((self.x, self.y), (x, y))
        if left <= MARINE_SPEED:
            self.x, self.y = self.orders.pop(0)
        else:
            self.x += (x - self.x) * MARINE_SPEED / left
            self.y += (y - self.y) * MARINE_SPEED / left


class World:
    """One game. The unit of length is the game's; y points up, and the field is in the middle."""

    def __init__(self, settings, seed):
        self.settings, self.rng = settings, random.Random(seed)
        self.restart()

    def restart(self):
        self.loop, self.score, self.groups, self.refused = 0, 0, {}, []
        number = 1 if self.settings["map"] == "MoveToBeacon" else 2
        self.marines = [Marine(*self.place()) for _ in range(number)]
        self.targets = []
        self.put_targets(BEACON_DISTANCE_AT_START)

    @property
    def is_over(self):
        return self.loop >= self.settings["seconds"] * LOOPS_PER_SECOND

    def place(self, distance=0.0):
        """Return a random place at this distance from all marines, or farther."""
        while True:
            x, y = (MAP_SIDE / 2 + side * (self.rng.random() - 0.5) for side in FIELD)
            marines = getattr(self, "marines", ())
            if all(math.dist((x, y), (one.x, one.y)) >= distance for one in marines):
                return x, y

    def walkable(self, place):
        """Return the place on the field that is nearest to a place on the map."""
        middle = MAP_SIDE / 2
        pairs = zip(place, FIELD, strict=True)
        return tuple(min(max(at, middle - side / 2), middle + side / 2) for at, side in pairs)

    def put_targets(self, distance):
        if self.settings["map"] == "MoveToBeacon":
            self.targets = [self.place(distance)]
        else:
            self.targets = [self.place(SHARD_DISTANCE) for _ in range(SHARDS)]

    def step(self):
        self.loop += 1
        is_beacon = self.settings["map"] == "MoveToBeacon"
        reach = BEACON_RADIUS if is_beacon else SHARD_REACH
        for marine in self.marines:
            marine.walk()
            here = (marine.x, marine.y)
            left = [target for target in self.targets if math.dist(here, target) > reach]
            self.score += len(self.targets) - len(left)
            self.targets = left
            if not left:
                self.put_targets(BEACON_DISTANCE)

    def command(self, ability, target, is_queued):
        """Order the selected marines; return a value of ActionResult."""
        ability = GENERAL.get(ability, ability)
        selected = [marine for marine in self.marines if marine.is_selected]
        if not selected or (ability in WALKS) != (target is not None):
            return "Error"
        if ability in STANDS:
            target = None
        elif ability not in WALKS:
            return "NotSupported"
        for marine in selected:
            if not is_queued:
                marine.orders.clear()
            if len(marine.orders) >= MAX_ORDERS:
                return "OrderQueueIsFull"
            if target is not None:
                marine.orders.append(self.walkable(target))
        return "Success"

    def select(self, marines, is_added):
        """Select marines. As in the game, selecting nothing changes nothing."""
        for marine in self.marines if marines else ():
            marine.is_selected = marine in marines or (is_added and marine.is_selected)


class View:
    """A picture of the world: screen or minimap."""

    def __init__(self, side, width, height):
        self.side, self.width, self.height = side, width, height

    def pixel(self, x, y):
        """Return the pixel of a place."""
        left, top = (MAP_SIDE - self.side) / 2, (MAP_SIDE + self.side) / 2
        return int((x - left) / self.side * self.width), int((top - y) / self.side * self.height)

    def place(self, column, row):
        """Return the place in the middle of a pixel."""
        left, top = (MAP_SIDE - self.side) / 2, (MAP_SIDE + self.side) / 2
        x = left + (column + 0.5) / self.width * self.side
        return x, top - (row + 0.5) / self.height * self.side

    def disc(self, x, y, radius):
        """Return the numbers of the pixels whose middle is in a disc, and of its centre's pixel."""
        centre_x, centre_y = self.pixel(x, y)
        reach = int(radius / self.side * self.width) + 1
        found = {centre_y * self.width + centre_x}
        for row in range(max(centre_y - reach, 0), min(centre_y + reach + 1, self.height)):
            for column in range(max(centre_x - reach, 0), min(centre_x + reach + 1, self.width)):
                if math.dist(self.place(column, row), (x, y)) <= radius:
                    found.add(row * self.width + column)
        return found

    def constant(self, layer, value):
        self.fill(layer, 8, bytes([value]) * (self.width * self.height))

    def fill(self, layer, bits, data):
        layer.bits_per_pixel, layer.size.x, layer.size.y = bits, self.width, self.height
        layer.data = data

    def draw(self, world, layers, is_screen):
        """Fill the layers of an observation that these maps use; the game leaves no other empty."""
        size = self.width * self.height
        is_beacon = world.settings["map"] == "MoveToBeacon"
        radius, kind = (BEACON_RADIUS, BEACON) if is_beacon else (SHARD_RADIUS, SHARD)
        relative, selected = bytearray(size), [0] * size
        types, health, ratio, density = [0] * size, [0] * size, bytearray(size), bytearray(size)
        things = [(self.disc(*at, radius), NEUTRAL, kind, 0, False) for at in world.targets]
        for one in world.marines:
            things.append(
                (self.disc(one.x, one.y, MARINE_RADIUS), SELF, MARINE, 45, one.is_selected)
            )
        for pixels, owner, type_, points, is_selected in things:
            for at in pixels:
                relative[at], types[at], health[at] = owner, type_, points
                ratio[at], density[at] = 255 if points else 0, density[at] + 1
                selected[at] = int(is_selected)
        self.constant(layers.height_map, 127)
        self.constant(layers.visibility_map, 2)
        self.fill(layers.player_relative, 8, bytes(relative))
        padded = selected + [0] * (-size % 8)
        bits = int("".join(map(str, padded)), 2).to_bytes(len(padded) // 8, "big")
        self.fill(layers.selected, 1, bits)
        self.fill(layers.unit_type, 32, struct.pack(f"<{size}i", *types))
        if is_screen:
            self.fill(layers.unit_hit_points, 32, struct.pack(f"<{size}i", *health))
            self.fill(layers.unit_hit_points_ratio, 8, bytes(ratio))
            self.fill(layers.unit_density, 8, bytes(density))
        else:
            self.constant(layers.camera, 1)


class Game:
    """Answers requests; every method is named after the request that it answers."""

    def __init__(self, protocol, data_dir):
        self.protocol, self.data_dir = protocol, Path(data_dir)
        self.status, self.world = "launched", None

    def answer(self, request, response):
        name = request.WhichOneof("request")
        method = getattr(self, name, None)
        if method is None:
            response.error.append(f"the stand-in knows no {name}")
        else:
            method(getattr(request, name), getattr(response, name))
            getattr(response, name).SetInParent()
        response.id = request.id
        response.status = self.protocol.Status.Value(self.status)

    def ping(self, request, response):
        response.game_version = "stand-in"

    def create_game(self, request, response):
        try:
            self.settings = json.loads(request.local_map.map_data)
        except ValueError:
            response.error = self.protocol.ResponseCreateGame.InvalidMapData
            return
        self.seed = request.random_seed if request.HasField("random_seed") else None
        self.status = "init_game"

    def join_game(self, request, response):
        self.options = request.options
        self.world = World(self.settings, self.seed)
        layers = request.options.feature_layer
        size = layers.resolution
        self.screen = View(CAMERA_WIDTH, size.x, size.y)
        size = layers.minimap_resolution
        self.minimap = View(float(MAP_SIDE), size.x, size.y)
        response.player_id = 1
        self.status = "in_game"

    def restart_game(self, request, response):
        self.world.restart()
        self.status = "in_game"

    def game_info(self, request, response):
        response.map_name = self.settings["map"]
        response.options.CopyFrom(self.options)
        response.start_raw.map_size.x = response.start_raw.map_size.y = MAP_SIDE
        response.player_info.add(player_id=1, type=1, race_requested=1)

    def step(self, request, response):
        for _ in range(request.count):
            if self.world.is_over:
                break
            self.world.step()
            self.fail()
        if self.world.is_over:
            self.status = "ended"
        response.simulation_loop = self.world.loop

    def fail(self):
        """Crash or hang where the map says so, in its first processes."""
        for name in ("crash_at_loop", "hang_at_loop"):
            if self.settings.get(name) == self.world.loop:
                for number in range(self.settings.get("failures", 1)):
                    with contextlib.suppress(FileExistsError):
                        self.data_dir.joinpath(f"failed-{number}").touch(exist_ok=False)
                        if name == "crash_at_loop":
                            os._exit(1)
                        time.sleep(3_600)

    def action(self, request, response):
        for action in request.actions:
            result = self.act(action)
            code = self.results.Value(result)
            response.result.append(code)
            if result != "Success":
                self.world.refused.append(code)

    def act(self, action):
        """Do one action; return a value of ActionResult."""
        world, spatial = self.world, action.action_feature_layer
        if action.action_ui.HasField("select_army"):
            world.select(world.marines, action.action_ui.select_army.selection_add)
        elif action.action_ui.HasField("control_group"):
            self.group(action.action_ui.control_group)
        elif spatial.HasField("unit_selection_point"):
            chosen = spatial.unit_selection_point
            at = chosen.selection_screen_coord
            pixel = at.y * self.screen.width + at.x
            hit = [one for one in world.marines if pixel in self.drawn(one)]
            if hit and chosen.type in (3, 4):  # all of its kind
                hit = world.marines
            is_toggled = chosen.type == 2 and hit and hit[0].is_selected
            world.select(hit, chosen.type in (2, 4))
            if is_toggled:
                hit[0].is_selected = False
        elif spatial.HasField("unit_selection_rect"):
            (rect,) = spatial.unit_selection_rect.selection_screen_coord
            (left, right) = sorted((rect.p0.x, rect.p1.x))
            (top, bottom) = sorted((rect.p0.y, rect.p1.y))
            hit = []
            for one in world.marines:
                x, y = self.screen.pixel(one.x, one.y)
                if left <= x <= right and top <= y <= bottom:
                    hit.append(one)
            world.select(hit, spatial.unit_selection_rect.selection_add)
        elif spatial.HasField("unit_command"):
            command, target = spatial.unit_command, None
            if command.HasField("target_screen_coord"):
                at = command.target_screen_coord
                target = self.screen.place(at.x, at.y)
            elif command.HasField("target_minimap_coord"):
                at = command.target_minimap_coord
                target = self.minimap.place(at.x, at.y)
            return world.command(command.ability_id, target, command.queue_command)
        return "Success"

    def drawn(self, marine):
        return self.screen.disc(marine.x, marine.y, MARINE_RADIUS)

    def group(self, control):
        """Recall (1), set (2, 4) or append to (3, 5) a control group."""
        world, at = self.world, control.control_group_index
        selected = [marine for marine in world.marines if marine.is_selected]
        if control.action == 1:
            world.select(world.groups.get(at, []), False)
        else:
            kept = world.groups.get(at, []) if control.action in (3, 5) else []
            world.groups[at] = kept + [one for one in selected if one not in kept]

    def observation(self, request, response):
        world, seen = self.world, response.observation
        seen.game_loop = world.loop
        seen.player_common.player_id = 1
        seen.player_common.army_count = seen.player_common.food_army = len(world.marines)
        seen.player_common.food_used = len(world.marines)
        seen.score.score = world.score
        self.screen.draw(world, seen.feature_layer_data.renders, True)
        self.minimap.draw(world, seen.feature_layer_data.minimap_renders, False)
        selected = [marine for marine in world.marines if marine.is_selected]
        for ability in (*WALKS, *STANDS) if selected else ():
            seen.abilities.add(ability_id=ability, requires_point=ability in WALKS)
        for _ in selected if len(selected) > 1 else ():
            seen.ui_data.multi.units.add(unit_type=MARINE, player_relative=SELF, health=45)
        if len(selected) == 1:
            unit = seen.ui_data.single.unit
            unit.unit_type, unit.player_relative, unit.health = MARINE, SELF, 45
        for at, marines in sorted(world.groups.items()):
            seen.ui_data.groups.add(
                control_group_index=at, leader_unit_type=MARINE, count=len(marines)
            )
        for code in world.refused:
            response.action_errors.add(result=code)
        world.refused = []
        if world.is_over:
            response.player_result.add(player_id=1, result=self.protocol.Tie)


# The websocket protocol, RFC 6455, as far as one client needs it.


def received(stream, length):
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return data


def shake_hands(stream):
    headers = {}
    while (line := stream.readline().strip()) or not headers:
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip()
    salted = headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accepted = base64.b64encode(hashlib.sha1(salted.encode()).digest()).decode()
    stream.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accepted.encode() + b"\r\n\r\n"
    )
    stream.flush()


def read_message(stream):
    """Return the next message. PySC2 sends its bytes in a text frame, which clients mask."""
    opcode, length = received(stream, 2)
    length &= 127
    if length > 125:
        size, code = (2, ">H") if length == 126 else (8, ">Q")
        (length,) = struct.unpack(code, received(stream, size))
    key, data = received(stream, 4), received(stream, length)
    if opcode & 15 == 8:  # closed
        raise EOFError
    assert opcode in (0x81, 0x82), opcode  # a whole message, text or binary
    keys = int.from_bytes((key * (length // 4 + 1))[:length], "big")
    return (int.from_bytes(data, "big") ^ keys).to_bytes(length, "big")


def write_message(stream, data):
    length = len(data)
    if length < 126:
        header = bytes([0x82, length])
    elif length < 2**16:
        header = struct.pack(">BBH", 0x82, 126, length)
    else:
        header = struct.pack(">BBQ", 0x82, 127, length)
    stream.write(header + data)
    stream.flush()


def main():
    sys.path.insert(0, str(ROOT))
    from envs import starcraft_import

    with starcraft_import.fast_protocol():
        from s2clientprotocol import error_pb2, sc2api_pb2
    options = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    assert Path(options["-tempDir"]).is_dir()
    game = Game(sc2api_pb2, options["-dataDir"])
    game.results = error_pb2.ActionResult
    with socket.create_server((options["-listen"], int(options["-port"]))) as server:
        connection, _ = server.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream = connection.makefile("rwb")
    shake_hands(stream)
    with contextlib.suppress(EOFError):
        while True:
            request = sc2api_pb2.Request.FromString(read_message(stream))
            if request.HasField("quit"):
                break
            response = sc2api_pb2.Response()
            game.answer(request, response)
            write_message(stream, response.SerializeToString())


if __name__ == "__main__":
    main()
