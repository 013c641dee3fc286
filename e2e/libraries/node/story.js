'use strict';

// What a bot saw, one JSON object a line.
module.exports = (event, fields = {}) => console.log(JSON.stringify({ event, ...fields }));
