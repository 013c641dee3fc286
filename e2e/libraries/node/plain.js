'use strict';

// For a library that speaks TLS alone: its requests, without it, to one address.

const https = require('node:https');
const net = require('node:net');

exports.agentTo = (url) => {
  const { hostname, port } = new URL(url);
  const agent = new https.Agent();
  agent.createConnection = () => net.connect(port, hostname);
  return agent;
};
